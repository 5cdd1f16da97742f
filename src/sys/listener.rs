//! Which life of a server listens on a port of this machine: the kernel gives each listening
//! socket a number of its own, so that a restart shows.

/// The number of what listens on `port`, where the system tells (Linux).
pub(crate) fn life_of(port: u16) -> Option<u64> {
    let wanted = format!("{port:04X}");
    let numbers: Vec<u64> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .into_iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|table| table.lines().filter_map(|line| socket(line, &wanted)).collect::<Vec<_>>())
        .collect();
    (!numbers.is_empty()).then(|| numbers.into_iter().fold(0, u64::wrapping_add))
}

/// The inode of a line that describes a socket listening on `port`, in upper-case hexadecimal.
fn socket(line: &str, port: &str) -> Option<u64> {
    const LISTENING: &str = "0A";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let (address, state) = (fields.get(1)?, fields.get(3)?);
    let listens_there = address.rsplit_once(':').is_some_and(|(_, it)| it == port) && *state == LISTENING;
    listens_there.then(|| fields.get(9)?.parse().ok()).flatten()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_is_started_again_has_another_life() {
        let listen = |port| std::net::TcpListener::bind(("127.0.0.1", port)).unwrap();
        let first = listen(0);
        let port = first.local_addr().unwrap().port();
        let life = life_of(port);
        assert!(life.is_some());
        assert_eq!(life_of(port), life);
        drop(first);
        assert_eq!(life_of(port), None);
        let _second = listen(port);
        assert_ne!(life_of(port), life);
    }
}
