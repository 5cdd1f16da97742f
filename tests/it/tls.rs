//! Servers at an `https` address: whose certificates are accepted, and what is said of the others.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair, date_time_ymd};
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::needs;
use crate::proxy::proxy;
use crate::support::{LLAMA, Machine, Run, run};

/// A machine where a proxy for `https` stands before LM Studio.
struct Site {
    machine: Machine,
    port: u16,
}

impl Site {
    /// The proxy shows this certificate.
    fn new(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        let machine = Machine::new();
        machine.preload(LLAMA);
        let key = ring::sign::any_supported_type(&key).expect("a key that can sign");
        // It does not look into the certificate.
        let resolver = SingleCertAndKey::from(CertifiedKey::new(vec![certificate], key));
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map(|it| it.with_no_client_auth().with_cert_resolver(Arc::new(resolver)))
            .expect("a TLS configuration");
        let port = proxy(machine.rest_port, Some(Arc::new(config)));
        Self { machine, port }
    }

    fn of(certificate: &rcgen::Certificate, key: &KeyPair) -> Self {
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        Self::new(certificate.der().clone(), key)
    }

    fn from_files(certificate: &Path, key: &Path) -> Self {
        let certificate = CertificateDer::from_pem_file(certificate).expect("a certificate");
        Self::new(certificate, PrivateKeyDer::from_pem_file(key).expect("a key"))
    }

    fn url(&self) -> String {
        format!("https://localhost:{}/lm/v1", self.port)
    }

    /// A call that trusts these certificates, and no others.
    fn call(&self, trusted: &str) -> Run {
        self.machine.write("trusted.pem", trusted);
        let mut command = self.machine.command(&["ensure", "--json", LLAMA, "--base-url", &self.url()]);
        run(command.env("SSL_CERT_FILE", self.machine.path("trusted.pem")))
    }

    #[track_caller]
    fn accepts(&self, trusted: &str) {
        assert_eq!(self.call(trusted).expect(0).model()["action"], "none");
    }

    #[track_caller]
    fn refuses(&self, trusted: &str, why: &str) -> Run {
        let why = format!("{} (from --base-url) cannot be connected to: its certificate {why}", self.url());
        let run = self.call(trusted).expect(3).says(&why);
        assert_eq!(run.model()["category"], "server-unreachable");
        assert!(self.machine.requests().is_empty(), "{:?}", self.machine.requests());
        run
    }
}

const AUTHORITY: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

/// A certificate as `openssl req -x509` makes it, but for what is changed.
fn self_made(hosts: &[&str], change: impl FnOnce(&mut CertificateParams)) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().expect("a key");
    let hosts: Vec<String> = hosts.iter().map(|&it| it.to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("names");
    params.is_ca = AUTHORITY;
    change(&mut params);
    (params.self_signed(&key).expect("a certificate"), key)
}

#[test]
fn a_certificate_that_is_itself_trusted_is_accepted_whether_it_calls_itself_an_authority_or_not() {
    for is_ca in [AUTHORITY, IsCa::Ca(BasicConstraints::Constrained(0)), IsCa::ExplicitNoCa, IsCa::NoCa] {
        let (certificate, key) = self_made(&["localhost"], |it| it.is_ca = is_ca);
        let site = Site::of(&certificate, &key);
        site.accepts(&certificate.pem());
        // Among others, too.
        let (other, _) = self_made(&["localhost"], |_| {});
        site.accepts(&format!("{}{}", other.pem(), certificate.pem()));
    }
}

#[test]
fn a_certificate_that_is_not_trusted_is_refused_whatever_it_says() {
    for (is_ca, why) in [
        (AUTHORITY, "is that of an authority (basicConstraints CA:TRUE), and is not itself trusted here"),
        (IsCa::NoCa, "is not trusted here, and not signed by one that is"),
    ] {
        let (certificate, key) = self_made(&["localhost"], |it| it.is_ca = is_ca);
        let site = Site::of(&certificate, &key);
        // The same in all but the key, as one that was made before: a name alone is no proof.
        let (same_name, _) = self_made(&["localhost"], |_| {});
        let (stranger, _) = self_made(&["localhost"], |it| it.distinguished_name = DistinguishedName::new());
        for trusted in [same_name, stranger] {
            site.refuses(&trusted.pem(), why).says("let the variable SSL_CERT_FILE name");
        }
    }
}

#[test]
fn an_authority_is_trusted_for_what_it_signs_and_a_server_for_itself() {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("names");
    // Some give both the same name.
    for name in [DistinguishedName::new(), params.distinguished_name.clone()] {
        let mut authority = CertificateParams::default();
        authority.is_ca = AUTHORITY;
        authority.distinguished_name = name;
        let authority =
            CertifiedIssuer::self_signed(authority, KeyPair::generate().expect("a key")).expect("an authority");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");
        let site = Site::of(&certificate, &key);
        site.accepts(&authority.pem());
        site.accepts(&certificate.pem());
    }
}

#[test]
fn what_is_wrong_with_a_trusted_certificate_is_named() {
    type Change = fn(&mut CertificateParams);
    let cases: [(&[&str], Change, &str, &str); 5] = [
        (&[], |_| {}, "has no subjectAltName, and so is valid for no host", "subjectAltName=DNS:localhost -keyout"),
        (&["llm.lan", "10.0.0.1"], |_| {}, "is valid for `llm.lan` and `10.0.0.1` alone", "-subj /CN=localhost"),
        (
            &["localhost"],
            |it| it.not_after = date_time_ymd(2024, 5, 1),
            "was valid until 2024-05-01T00:00:00Z (notAfter)",
            "make one that works: `openssl req -x509",
        ),
        (
            &["localhost"],
            |it| it.not_before = date_time_ymd(2100, 5, 1),
            "is valid from 2100-05-01T00:00:00Z on (notBefore)",
            "check the clocks",
        ),
        (
            &["localhost"],
            |it| {
                it.is_ca = IsCa::NoCa;
                it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ClientAuth];
            },
            "is not accepted: ",
            "make one that works: `openssl req -x509",
        ),
    ];
    for (hosts, change, why, hint) in cases {
        // Neither a trusted authority nor a trusted server may be what it is not valid for.
        for is_ca in [AUTHORITY, IsCa::NoCa] {
            let (certificate, key) = self_made(hosts, |it| {
                it.is_ca = is_ca;
                change(it);
            });
            Site::of(&certificate, &key).refuses(&certificate.pem(), why).says(hint);
        }
    }
}

#[test]
fn a_server_that_does_not_own_the_key_of_its_certificate_is_refused() {
    for is_ca in [AUTHORITY, IsCa::NoCa] {
        let (certificate, _) = self_made(&["localhost"], |it| it.is_ca = is_ca);
        let site = Site::of(&certificate, &KeyPair::generate().expect("a key"));
        site.refuses(&certificate.pem(), "has a key that is too short (RSA needs 2048 bits), or is not the server's");
    }
}

#[test]
fn without_any_trusted_certificate_it_is_said_what_to_install() {
    let (certificate, key) = self_made(&["localhost"], |_| {});
    let site = Site::of(&certificate, &key);
    for text in ["", "no certificate", "-----BEGIN CERTIFICATE-----\nbm90aGluZw==\n-----END CERTIFICATE-----\n"] {
        let run = site.call(text).expect(78).says("no trusted certificates can be read");
        let path = site.machine.path("trusted.pem").display().to_string();
        let run = run.says(&format!("SSL_CERT_FILE is `{path}`: let it name certificates in PEM form, or unset it"));
        assert_eq!(run.json()["proceed"], false);
    }
    let mut command = site.machine.command(&["ensure", "--json", LLAMA, "--base-url", &site.url()]);
    run(command.env("SSL_CERT_FILE", "/nowhere.pem")).expect(78).says("/nowhere.pem");
    // A plain call needs none.
    let mut command = site.machine.command(&["ensure", "--json", LLAMA]);
    run(command.env("SSL_CERT_FILE", "/nowhere.pem")).expect(0);
}

#[cfg(target_os = "linux")]
#[test]
fn on_a_system_without_certificates_it_is_said_what_to_install() {
    let (certificate, key) = self_made(&["localhost"], |_| {});
    let site = Site::of(&certificate, &key);
    // Only this process sees the empty folders.
    let script = "for folder in /etc/ssl /etc/pki /usr/lib/ssl /usr/share/ssl /usr/local/ssl; do
            [ ! -d $folder ] || mount -t tmpfs tmpfs $folder || exit 99
        done
        echo >hidden; exec \"$0\" ensure --json \"$1\" --base-url \"$2\"";
    let mut command = Command::new("unshare");
    command.args(["-rm", "/bin/sh", "-c", script, env!("CARGO_BIN_EXE_lmswarm"), LLAMA, &site.url()]);
    command.env_clear().envs(site.machine.environment()).env("PATH", "/bin:/usr/bin:/sbin:/usr/sbin");
    let ended = run(command.current_dir(site.machine.home()));
    let is_hidden = site.machine.path("hidden").exists();
    let Some(()) = needs::have("mount", is_hidden.then_some(())) else { return };
    ended.expect(78).says("no trusted certificates can be read").says("the package ca-certificates").json();
}

#[test]
fn the_scheme_that_a_port_speaks_is_told() {
    let (certificate, key) = self_made(&["localhost"], |_| {});
    let site = Site::of(&certificate, &key);
    let (plain, tls) = (site.machine.rest_port, site.port);
    for (url, why, other) in [
        (format!("https://localhost:{plain}/v1"), "http, not https", format!("http://localhost:{plain}/v1")),
        (format!("https://127.0.0.1:{plain}/lm"), "http, not https", format!("http://127.0.0.1:{plain}/lm/v1")),
        (format!("http://localhost:{tls}/lm/v1"), "https, not http", format!("https://localhost:{tls}/lm/v1")),
    ] {
        let run = site.machine.ensure(&[LLAMA, "--base-url", &url]).expect(3);
        let run = run.says(&format!("cannot be connected to: that port speaks {why}"));
        let run = run.says(&format!("use --base-url {other}"));
        assert_eq!(run.model()["category"], "server-unreachable");
    }
}

#[test]
fn what_openssl_makes_is_accepted_or_the_message_says_what_to_make_instead() {
    let Some(openssl) = needs::program("openssl") else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let (key, certificate) = (folder.path().join("key.pem"), folder.path().join("cert.pem"));
    let make = |args: &str| {
        let mut command = Command::new(&openssl);
        command.args(args.split_whitespace()).current_dir(folder.path());
        let made = command.output().expect("openssl starts");
        assert!(made.status.success(), "{args}: {made:?}");
        (Site::from_files(&certificate, &key), fs::read_to_string(&certificate).expect("a certificate"))
    };
    let request = "req -x509 -nodes -days 30 -subj /CN=localhost -keyout key.pem -out cert.pem";
    for more in [
        "-newkey rsa:2048 -addext subjectAltName=DNS:localhost",
        "-newkey rsa:2048 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE",
        "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -addext subjectAltName=DNS:localhost",
        "-newkey ed25519 -addext subjectAltName=DNS:localhost",
        // Nobody relies on the signature of what is trusted by itself.
        "-newkey rsa:2048 -sha1 -addext subjectAltName=DNS:localhost",
        "-newkey rsa:2048 -sha1 -addext subjectAltName=DNS:localhost -addext basicConstraints=critical,CA:FALSE",
    ] {
        let (site, pem) = make(&format!("{request} {more}"));
        site.accepts(&pem);
    }
    // Version 1, as from a request without extensions.
    make(&format!("{request} -newkey rsa:2048"));
    make("req -new -key key.pem -subj /CN=localhost -out request.pem");
    let (site, pem) = make("x509 -req -in request.pem -signkey key.pem -out cert.pem");
    let run = site.refuses(&pem, "is of X.509 version 1, which has no subjectAltName");
    // The command that the message shows.
    let (_, after) = run.stderr.split_once("`openssl ").expect("a command");
    let (shown, _) = after.split_once('`').expect("its end");
    let (site, pem) = make(shown);
    site.accepts(&pem);
}

#[test]
fn a_kind_of_key_that_is_not_known_is_told_from_a_wrong_address() {
    let Some(openssl) = needs::program("openssl") else { return };
    let machine = Machine::bare();
    let openssl = |args: &str| {
        let mut command = Command::new(&openssl);
        command.args(args.split_whitespace()).current_dir(machine.home()).stdin(Stdio::null());
        command
    };
    let made = openssl(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:secp521r1 -nodes -days 30 -subj /CN=localhost -addext \
         subjectAltName=DNS:localhost -keyout key.pem -out cert.pem",
    );
    assert!({ made }.output().expect("openssl starts").status.success());
    // It chooses a port, and names it: `ACCEPT [::]:36789`.
    let mut server = openssl("s_server -accept 0 -www -cert cert.pem -key key.pem");
    let mut server = server.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("openssl starts");
    let lines = BufReader::new(server.stdout.take().expect("a pipe")).lines();
    let port = lines.map_while(Result::ok).find_map(|it| it.strip_prefix("ACCEPT")?.rsplit_once(':')?.1.parse().ok());
    let port: u16 = port.expect("a port");
    let mut command = machine.command(&["ensure", "--json", LLAMA, "--base-url"]);
    command.arg(format!("https://localhost:{port}")).env("SSL_CERT_FILE", machine.path("cert.pem"));
    let ended = run(&mut command);
    server.kill().and_then(|()| server.wait()).expect("its end");
    ended.expect(3).says("it takes no TLS version, cipher or signature that lmswarm offers").says("P-384").json();
}
