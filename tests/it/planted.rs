//! Something that stands where lmswarm would make a file of its own, and the user's file behind it.

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::Machine;

pub fn folder(path: &Path, mode: u32) {
    fs::DirBuilder::new().mode(0o700).create(path).expect("a folder");
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("its mode");
}

/// Something of the user's that must stay as it is.
pub struct Victim {
    pub path: PathBuf,
    before: (u32, i64, i64, Vec<u8>),
}

impl Victim {
    pub fn new(machine: &Machine) -> Self {
        let path = machine.path("victim");
        fs::write(&path, "{\"precious\": true}").expect("a file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("its mode");
        let before = Self::look(&path);
        Self { path, before }
    }

    pub fn look(path: &Path) -> (u32, i64, i64, Vec<u8>) {
        let found = fs::metadata(path).expect("it is there");
        (found.mode(), found.mtime(), found.mtime_nsec(), fs::read(path).expect("it can be read"))
    }

    #[track_caller]
    pub fn is_untouched(&self) {
        assert_eq!(Self::look(&self.path), self.before);
    }
}

/// Puts something in the place of a file that lmswarm would make.
pub fn plant(kind: &str, place: &Path, victim: &Victim) {
    match kind {
        "symlink" => symlink(&victim.path, place).expect("a symlink"),
        "dangling" => symlink(victim.path.with_file_name("dangling"), place).expect("a symlink"),
        "hard link" => fs::hard_link(&victim.path, place).expect("a hard link"),
        "folder" => folder(place, 0o700),
        _ => assert!(Command::new("mkfifo").arg(place).status().expect("mkfifo").success()),
    }
}
