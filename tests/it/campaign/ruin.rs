//! What happens to the files: the lock, the state directory, its disk and the times that stand in it.

use std::fs;
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

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

/// The lock as `flock -s` takes it; `None` if a process has it alone, or there is no such file.
pub fn lock_shared(lock: &Path) -> Option<fs::File> {
    let file = fs::File::open(lock).ok()?;
    fs2::FileExt::try_lock_shared(&file).ok()?;
    Some(file)
}

pub fn fill(path: &Path) {
    let Ok(mut file) = fs::File::create(path) else { return };
    while file.write_all(&[b'#'; 512]).is_ok() {}
}

/// Every time of day in every state file, and every file's own time, moved by so many milliseconds.
pub fn move_clock(folder: &Path, by: i64) {
    fn moved(value: &mut Value, by: i64) -> usize {
        match value {
            Value::Object(members) => {
                let each = members.iter_mut().map(|(name, member)| {
                    let Some(at) = member.as_u64().filter(|_| name == "atMs" || name == "sinceMs") else {
                        return moved(member, by);
                    };
                    *member = at.saturating_add_signed(by).into();
                    1
                });
                each.sum()
            }
            Value::Array(items) => items.iter_mut().map(|item| moved(item, by)).sum(),
            _ => 0,
        }
    }
    let shift = Duration::from_millis(by.unsigned_abs());
    let time = if by < 0 { SystemTime::now() - shift } else { SystemTime::now() + shift };
    for path in fs::read_dir(folder).into_iter().flatten().flatten().map(|it| it.path()) {
        let parsed = fs::read(&path).ok().and_then(|it| serde_json::from_slice::<Value>(&it).ok());
        if let Some(mut value) = parsed
            && moved(&mut value, by) > 0
        {
            let _ = fs::write(&path, value.to_string());
        }
        // It may be gone by now.
        let _ = fs::File::options().write(true).open(&path).and_then(|file| file.set_modified(time));
    }
}

/// What an earlier boot left of a load that lives in the server, unless one is under way: the clock that it was
/// written with counted further than the present one.
pub fn leave_order(file: &Path) {
    let Some(folder) = file.parent() else { return };
    if fs::create_dir(folder).is_ok() {
        let _ = fs::set_permissions(folder, fs::Permissions::from_mode(0o700));
    }
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
