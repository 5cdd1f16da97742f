//! Proxies: a reverse proxy in front of LM Studio (a path prefix, TLS, a host that `lms` cannot be
//! pointed at), and those of the environment.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use rustls::pki_types::PrivateKeyDer;
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::{LLAMA, Machine, free_port, run};

/// Forwards requests below `/lm` to `upstream`; returns its port.
fn proxy(upstream: u16, tls: Option<Arc<ServerConfig>>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let tls = tls.clone();
            // A client that does not trust us hangs up; that is what one test is about.
            std::thread::spawn(move || match tls {
                Some(config) => {
                    let connection = ServerConnection::new(config).expect("a TLS connection");
                    forward(StreamOwned::new(connection, stream), upstream)
                }
                None => forward(stream, upstream),
            });
        }
    });
    port
}

fn forward(mut client: impl Read + Write, upstream: u16) -> std::io::Result<()> {
    let mut head = String::new();
    let mut body = Vec::new();
    {
        let mut reader = BufReader::new(&mut client);
        while !head.ends_with("\r\n\r\n") && reader.read_line(&mut head)? > 0 {}
        let length = head.lines().find_map(|it| it.to_lowercase().strip_prefix("content-length: ").map(str::to_owned));
        body.resize(length.and_then(|it| it.parse().ok()).unwrap_or(0), 0);
        reader.read_exact(&mut body)?;
    }
    let mut server = TcpStream::connect(("127.0.0.1", upstream))?;
    let head = head.replacen(" /lm/", " /", 1).replacen("\r\n", "\r\nConnection: close\r\n", 1);
    server.write_all(head.as_bytes())?;
    server.write_all(&body)?;
    let mut answer = Vec::new();
    server.read_to_end(&mut answer)?;
    client.write_all(&answer)?;
    client.flush()
}

#[test]
fn a_path_prefix_is_kept_and_the_load_goes_over_rest() {
    let machine = Machine::new();
    let url = format!("http://127.0.0.1:{}/lm/v1", proxy(machine.rest_port, None));
    let model = machine.ensure(&[LLAMA, "--base-url", &url]).expect(0).model();
    assert_eq!((&model["action"], &model["baseURL"]), (&"loaded".into(), &url.clone().into()));
    assert_eq!(machine.lms_calls().len(), 0);
    let without_v1 = url.trim_end_matches("/v1");
    assert_eq!(machine.ensure(&[LLAMA, "--base-url", without_v1]).expect(0).model()["action"], "none");
}

#[test]
fn https_works_with_the_certificates_of_the_system_and_with_no_others() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::try_from(signed.signing_key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|it| it.with_no_client_auth().with_single_cert(vec![signed.cert.der().clone()], key))
        .expect("a TLS configuration");
    let url = format!("https://localhost:{}/lm/v1", proxy(machine.rest_port, Some(Arc::new(config))));
    machine.write("ca.pem", &signed.cert.pem());
    let call = |certificates: &str| {
        let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url", &url]);
        run(command.env("SSL_CERT_FILE", machine.path(certificates)))
    };
    assert_eq!(call("ca.pem").expect(0).model()["action"], "none");
    let other = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    machine.write("other.pem", &other.cert.pem());
    assert_eq!(call("other.pem").expect(3).says("certificate").model()["category"], "server-unreachable");
    machine.write("none.pem", "");
    let report = call("none.pem").expect(1).says("the system's certificates cannot be loaded").json();
    assert_eq!(report["proceed"], false);
}

#[test]
fn a_proxy_of_the_environment_is_not_asked_for_this_machine() {
    let machine = Machine::new();
    machine.preload(LLAMA);
    let dead = format!("http://127.0.0.1:{}", free_port());
    for url in [machine.base_url(), format!("http://localhost:{}", machine.rest_port)] {
        let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url", &url]);
        command.envs([("HTTP_PROXY", &dead), ("http_proxy", &dead), ("ALL_PROXY", &dead)]);
        crate::support::run(&mut command).expect(0).json();
    }
}
