//! What the simulator's record tells, as intervals: who was resident from when to when, and which `lms` ran.

use serde_json::Value;

/// One instance, from the begin of its load to its end, in milliseconds of the monotonic clock.
#[derive(Debug, Clone)]
pub struct Life {
    pub id: u64,
    pub key: String,
    pub identifier: String,
    pub by: String,
    pub began: u64,
    pub ready: Option<u64>,
    pub ended: Option<u64>,
}

impl Life {
    pub fn is_ours(&self) -> bool {
        matches!(self.by.as_str(), "lms" | "rest")
    }

    /// Whether it was there at `at`.
    pub fn lives_at(&self, at: u64) -> bool {
        self.began <= at && self.ended.is_none_or(|ended| ended > at)
    }

    /// Whether it was the key, or a copy of it (`KEY:2`).
    pub fn is_named_after(&self, key: &str) -> bool {
        self.identifier.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(':'))
    }
}

/// One run of `lms`.
#[derive(Debug)]
pub struct Call {
    pub pid: u32,
    pub parent: u32,
    pub argv: Vec<String>,
    pub at: u64,
    pub exit: Option<u64>,
}

impl Call {
    /// The identifier, if it is a load and no estimate.
    pub fn loads(&self) -> Option<&str> {
        let is_load =
            self.argv.first().is_some_and(|it| it == "load") && !self.argv.contains(&"--estimate-only".into());
        let place = self.argv.iter().position(|it| it == "--identifier").filter(|_| is_load)?;
        self.argv.get(place + 1).map(String::as_str)
    }

    /// Whether it ran all the time from `since` to `until`; one that was killed is not known to have.
    pub fn ran(&self, since: u64, until: u64) -> bool {
        self.at <= since && self.exit.is_some_and(|exit| exit > until)
    }

    /// Whether it is `lms ps`.
    pub fn lists(&self) -> bool {
        self.argv.first().is_some_and(|it| it == "ps")
    }

    pub fn unloads(&self, identifier: &str) -> bool {
        self.argv.first().is_some_and(|it| it == "unload") && self.argv.get(1).is_some_and(|it| it == identifier)
    }
}

/// Somebody asked for an instance to be unloaded.
#[derive(Debug)]
pub struct Unload {
    pub at: u64,
    pub by: String,
    pub busy_since: Option<u64>,
    pub life: Life,
}

/// All of it.
#[derive(Debug, Default)]
pub struct History {
    pub lives: Vec<Life>,
    pub calls: Vec<Call>,
    pub unloads: Vec<Unload>,
    /// Whom a fault struck, and with what.
    pub faults: Vec<(String, String)>,
    /// When the server was asked for something.
    pub requests: Vec<u64>,
    /// When the application or its server came or went.
    pub turns: Vec<u64>,
}

impl History {
    pub fn of(record: &[Value]) -> Self {
        let mut history = Self::default();
        for event in record {
            history.take(event);
        }
        history
    }

    fn take(&mut self, event: &Value) {
        let text = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let at = event["monotonicMs"].as_u64().expect("a time");
        let id = event["id"].as_u64();
        let pid = |name: &str| event[name].as_u64().and_then(|it| u32::try_from(it).ok()).unwrap_or_default();
        // Ids begin anew with each application, and only the last one's instances live.
        let mut own = self.lives.iter_mut().rev().find(|it| it.ended.is_none() && Some(it.id) == id);
        let event_name = text("event");
        if ["app-start", "app-stop", "crash", "rest-start", "rest-stop"].contains(&event_name.as_str()) {
            self.turns.push(at);
        }
        match event_name.as_str() {
            "app-start" | "app-stop" | "crash" => {
                self.lives.iter_mut().for_each(|it| it.ended = it.ended.or(Some(at)));
            }
            "load-begin" => self.lives.push(Life {
                id: id.expect("an id"),
                key: text("key"),
                identifier: text("identifier"),
                by: text("by"),
                began: at,
                ready: None,
                ended: None,
            }),
            "load-ready" => own.expect("it began").ready = Some(at),
            "load-failed" | "load-cancelled" => own.expect("it began").ended = Some(at),
            // One that was loading has been cancelled just before.
            "evict" => {
                if let Some(life) = &mut own {
                    life.ended = Some(at);
                }
            }
            "unload" => {
                let life = self.lives.iter_mut().rev().find(|it| Some(it.id) == id).expect("it began");
                life.ended = life.ended.or(Some(at));
                let (by, busy_since) = (text("by"), event["busySinceMs"].as_u64());
                self.unloads.push(Unload { at, by, busy_since, life: life.clone() });
            }
            "lms" => {
                let argv = event["argv"].as_array().into_iter().flatten();
                let argv = argv.map(|it| it.as_str().unwrap_or_default().to_owned()).collect();
                self.calls.push(Call { pid: pid("pid"), parent: pid("ppid"), argv, at, exit: None });
            }
            "lms-exit" => {
                let pid = pid("pid");
                if let Some(call) = self.calls.iter_mut().rev().find(|it| it.pid == pid) {
                    call.exit = Some(at);
                }
            }
            "request" => self.requests.push(at),
            "fault" => self.faults.push((text("on"), text("kind"))),
            _ => {}
        }
    }
}
