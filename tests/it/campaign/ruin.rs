//! What happens to the files: the lock, the state directory, its disk and the times that stand in it.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::json;

use super::clock::now;
use super::plan::Instead;

pub fn replace_lock(lock: &Path, instead: Instead) {
    // The directory may be gone, or another thing: then there is no lock to replace.
    let _ = fs::remove_file(lock).or_else(|_| fs::remove_dir(lock));
    let _ = match instead {
        Instead::Nothing => Ok(()),
        Instead::Another => fs::write(lock, ""),
        Instead::Garbage | Instead::WritableByAll => fs::write(lock, b"\xff\x00{\"pid\":\"none\""),
        Instead::Symlink => std::os::unix::fs::symlink("/dev/null", lock),
        Instead::WrongKind => fs::create_dir(lock),
    };
}

pub fn replace_folder(folder: &Path, instead: Instead) {
    let _ = fs::remove_dir_all(folder).or_else(|_| fs::remove_file(folder));
    let parent = folder.parent().expect("a folder in a home");
    fs::create_dir_all(parent).expect("a folder for it");
    let private = |mode| fs::set_permissions(folder, fs::Permissions::from_mode(mode));
    // Callers make it anew at the same time.
    let _ = match instead {
        Instead::Nothing => Ok(()),
        Instead::Another => fs::create_dir(folder).and_then(|()| private(0o700)),
        Instead::Garbage | Instead::WrongKind => fs::write(folder, "no folder"),
        Instead::Symlink => std::os::unix::fs::symlink(parent, folder),
        Instead::WritableByAll => fs::create_dir(folder).and_then(|()| private(0o777)),
    };
}

/// Makes the directory and the lock what a caller may use, if they are not.
pub fn repair(folder: &Path, lock: &Path) {
    let is = |path: &Path, wrong: fn(fs::FileType) -> bool| {
        path.symlink_metadata().is_ok_and(|found| wrong(found.file_type()))
    };
    if is(folder, |it| !it.is_dir()) {
        fs::remove_file(folder).expect("the state directory's place is free");
    }
    if is(folder, |it| it.is_dir()) {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    }
    if is(lock, |it| it.is_dir()) {
        let _ = fs::remove_dir(lock);
    } else if is(lock, |it| it.is_symlink()) {
        let _ = fs::remove_file(lock);
    }
}

/// The lock as `flock -s` takes it, which makes the file; `None` if a process has it alone.
pub fn lock_shared(lock: &Path) -> Option<fs::File> {
    make_folder(lock.parent()?);
    let file = fs::File::options().read(true).append(true).create(true).open(lock).ok()?;
    fs2::FileExt::try_lock_shared(&file).ok()?;
    Some(file)
}

/// Makes the state directory, if it is not there.
fn make_folder(folder: &Path) {
    let parent = folder.parent().expect("a folder in a home");
    fs::create_dir_all(parent).expect("a folder for it");
    // Callers make it at the same time.
    let _ = fs::DirBuilder::new().mode(0o700).create(folder);
}

pub fn fill(path: &Path) {
    let Ok(mut file) = fs::File::create(path) else { return };
    while file.write_all(&[b'#'; 512]).is_ok() {}
}

/// Every time of day in every state file, and every file's own time, moved by so many milliseconds. What a leader says of
/// itself stays: it is only for messages, and the leader may be writing it.
pub fn move_clock(folder: &Path, by: i64) {
    let shift = Duration::from_millis(by.unsigned_abs());
    let time = if by < 0 { SystemTime::now() - shift } else { SystemTime::now() + shift };
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()) {
        // It may be gone by now.
        let Ok(mut file) = fs::File::options().read(true).write(true).open(&path) else { continue };
        let mut bytes = Vec::new();
        if path.extension().is_none_or(|it| it != "lock") && file.read_to_end(&mut bytes).is_ok() {
            // A file that is replaced meanwhile stays as its writer has made it.
            for (place, moved) in moved_times(&bytes, by) {
                let _ = file.write_all_at(moved.as_bytes(), place);
            }
        }
        let _ = file.set_modified(time);
    }
}

/// Where in a file a time of day stands, in Unix milliseconds, and what it is when it is moved. By its value, whatever
/// its name, so that the campaign needs no list of names; its length stays.
fn moved_times(bytes: &[u8], by: i64) -> Vec<(u64, String)> {
    const TEN_YEARS: u128 = 10 * 365 * 86_400_000;
    let today = SystemTime::UNIX_EPOCH.elapsed().expect("a clock that is set").as_millis();
    let mut found = Vec::new();
    let mut place = 0;
    for digits in bytes.chunk_by(|one, two| one.is_ascii_digit() == two.is_ascii_digit()) {
        let number = str::from_utf8(digits).ok().and_then(|it| it.parse::<u64>().ok());
        if let Some(at) = number.filter(|it| u128::from(*it).abs_diff(today) < TEN_YEARS) {
            found.push((place, at.saturating_add_signed(by).to_string()));
        }
        place += digits.len() as u64;
    }
    found
}

/// What an earlier boot left of a load that lives in the server, unless one is under way: the clock that it was
/// written with counted further than the present one.
pub fn leave_order(file: &Path) {
    let Some(folder) = file.parent() else { return };
    make_folder(folder);
    let opened = fs::File::options().read(true).write(true).create(true).truncate(false).open(file);
    let Ok(mut order) = opened.and_then(|it| fs2::FileExt::try_lock_exclusive(&it).map(|()| it)) else { return };
    let later = now() + 1_000_000_000;
    let text = json!({ "beganMs": later, "untilMs": later + 60_000, "withoutLock": true }).to_string();
    let mut present = String::new();
    let _ = order.read_to_string(&mut present);
    // A load that goes on without a lock is not to be forgotten.
    if !present.contains("\"withoutLock\":true") {
        let _ = order.rewind().and_then(|()| order.set_len(0)).and_then(|()| order.write_all(text.as_bytes()));
    }
}

/// A small file system of its own, if we may mount one.
pub struct Mount(PathBuf);

impl Mount {
    pub fn new(place: &Path) -> Option<Self> {
        fs::create_dir_all(place).expect("a folder");
        let args = ["-t", "tmpfs", "-o", "size=16k,mode=0700", "lmswarm-campaign"];
        let mounted = Command::new("mount").args(args).arg(place).stderr(Stdio::null()).status();
        if mounted.is_ok_and(|it| it.success()) {
            return Some(Self(place.to_owned()));
        }
        fs::set_permissions(place, fs::Permissions::from_mode(0o700)).expect("a private folder");
        None
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // A process that still has a file open there keeps it, and no other one sees it any more.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}
