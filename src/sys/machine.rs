//! What this machine has. The only file that names sysinfo.

/// All of its memory, in bytes; `None` where the system does not tell.
pub(crate) fn memory_bytes() -> Option<u64> {
    let mut system = sysinfo::System::new();
    system.refresh_memory();
    Some(system.total_memory()).filter(|bytes| *bytes > 0)
}
