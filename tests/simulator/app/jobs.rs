//! Downloads by REST: `/api/v1/models/download` and the status of a job.
//!
//! The list of jobs is all the state it has; what is downloaded is in the files.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use serde_json::{Value, json};

use crate::catalogue;
use crate::common::now_ms;
use crate::engine::{App, By};
use crate::native::{missing_field, v1_error};
use crate::reply;

/// A download asked for by REST.
struct Job {
    id: String,
    size: u64,
    began: u64,
    /// How long it should take.
    takes: u64,
    ended: Option<u64>,
}

static JOBS: Mutex<Vec<Job>> = Mutex::new(Vec::new());

fn jobs() -> MutexGuard<'static, Vec<Job>> {
    JOBS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// `POST /api/v1/models/download`
pub fn v1_download(app: &Arc<App>, body: &Value) -> Response {
    #[derive(Serialize)]
    struct Begun<'a> {
        job_id: &'a str,
        status: &'static str,
        total_size_bytes: u64,
        started_at: String,
    }
    let Some(name) = body["model"].as_str() else {
        return missing_field("model");
    };
    let wanted = match body["quantization"].as_str() {
        Some(quantization) => format!("{name}@{quantization}"),
        None => name.to_owned(),
    };
    match catalogue::resolve(app, &wanted) {
        Ok((_, true)) => reply::json(&json!({ "status": "already_downloaded" })),
        Ok((model, false)) => {
            let (now, id) = (now_ms(), format!("job_{:010x}", now_ms() + app.next_serial()));
            let size = model.head.size_bytes;
            jobs().push(Job { id: id.clone(), size, began: now, takes: app.config().download_ms, ended: None });
            let (app, name, own) = (Arc::clone(app), name.to_owned(), id.clone());
            tokio::spawn(async move {
                catalogue::download(&app, &model, &name, By::Rest).await;
                if let Some(job) = jobs().iter_mut().find(|job| job.id == own) {
                    job.ended = Some(now_ms());
                }
            });
            let started_at = iso(now);
            reply::json(&Begun { job_id: &id, status: "downloading", total_size_bytes: size, started_at })
        }
        // Status and text are [open].
        Err(text) => v1_error(StatusCode::NOT_FOUND, "model_not_found", &text),
    }
}

/// `GET /api/v1/models/download/status/JOB`
pub fn v1_download_status(job: &str) -> Response {
    #[derive(Serialize)]
    struct Progress<'a> {
        job_id: &'a str,
        status: &'static str,
        total_size_bytes: u64,
        downloaded_bytes: u64,
        #[serde(skip_serializing_if = "Option::is_none")]
        bytes_per_second: Option<u64>,
        started_at: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        completed_at: Option<String>,
    }
    let jobs = jobs();
    let Some(Job { size, began, takes, ended, .. }) = jobs.iter().find(|it| it.id == job) else {
        return v1_error(StatusCode::NOT_FOUND, "job_not_found", &format!("Job \"{job}\" not found"));
    };
    let total = (*takes).max(1);
    let so_far = size / total * now_ms().saturating_sub(*began);
    reply::json(&Progress {
        job_id: job,
        status: if ended.is_some() { "completed" } else { "downloading" },
        total_size_bytes: *size,
        downloaded_bytes: if ended.is_some() { *size } else { so_far.min(*size) },
        bytes_per_second: ended.is_none().then(|| size.saturating_mul(1000) / total),
        started_at: iso(*began),
        completed_at: ended.map(iso),
    })
}

/// `2026-11-20T21:36:58.709Z`
fn iso(ms: u64) -> String {
    let (days, in_day) = (ms / 86_400_000, ms % 86_400_000);
    // Days since 0000-03-01, so that a leap day is the last of its year.
    let shifted = days + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (in_day / 3_600_000, in_day / 60_000 % 60);
    let (second, millisecond) = (in_day / 1000 % 60, in_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}
