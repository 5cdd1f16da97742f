//! TLS: which certificates of servers are accepted, and why one was not. A plain http call costs it
//! nothing: only for `https` the system's certificates are loaded, which takes longer than the whole
//! of a warm call.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{WebPkiServerVerifier, verify_server_name};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{AlertDescription, ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};

use crate::pure::base_url::BaseUrl;
use crate::pure::http::CertificateError;
use crate::pure::text::excerpt;

/// Why there is no client for a server.
#[derive(Debug)]
pub(crate) enum NoClient {
    /// There are no trusted certificates to check the server's with.
    NoCertificates {
        /// What happened, in one sentence.
        reason: String,
        /// What to do next.
        hint: String,
    },
    /// An error of ours.
    Unexpected(anyhow::Error),
}

/// What a TLS handshake failed for.
#[derive(Debug)]
pub(super) enum HandshakeError {
    /// The server's certificate is not accepted.
    Certificate(CertificateError),
    /// What answered was no TLS.
    NoTls,
    /// There is no version, cipher or kind of key that both sides take.
    NothingInCommon,
    /// Anything else.
    Other,
}

/// Makes the configuration for one server.
pub(super) fn config(base: &BaseUrl) -> Result<ClientConfig, NoClient> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .context("TLS does not work here")
        .map_err(NoClient::Unexpected)?;
    let builder = if base.is_https() {
        builder.dangerous().with_custom_certificate_verifier(Arc::new(Verifier::new(base, provider)?))
    } else {
        builder.with_root_certificates(RootCertStore::empty())
    };
    Ok(builder.with_no_client_auth())
}

/// Accepts what webpki accepts, and a certificate that is itself, byte for byte, among the trusted
/// ones. webpki takes none of these: one that calls itself an authority, which is what
/// `openssl req -x509` makes, and one whose issuer is not trusted. The host must be right and the time
/// within its validity in any case.
#[derive(Debug)]
struct Verifier {
    webpki: Arc<WebPkiServerVerifier>,
    trusted: Vec<CertificateDer<'static>>,
}

impl Verifier {
    fn new(base: &BaseUrl, provider: Arc<CryptoProvider>) -> Result<Self, NoClient> {
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(found.certs.iter().cloned());
        if roots.is_empty() {
            return Err(no_certificates(base, found.errors.first()));
        }
        let webpki = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider)
            .build()
            .context("the system's certificates cannot be used")
            .map_err(NoClient::Unexpected)?;
        Ok(Self { webpki, trusted: found.certs })
    }
}

fn no_certificates(base: &BaseUrl, error: Option<&rustls_native_certs::Error>) -> NoClient {
    let why = error.map_or_else(|| "none found".to_owned(), ToString::to_string);
    let variable = ["SSL_CERT_FILE", "SSL_CERT_DIR"]
        .into_iter()
        .find_map(|name| Some((name, std::env::var_os(name).filter(|it| !it.is_empty())?)));
    let hint = match variable {
        Some((name, value)) => {
            let value = excerpt(&value.to_string_lossy(), 100);
            format!("{name} is `{value}`: let it name certificates in PEM form, or unset it")
        }
        None => "install them (on Linux the package ca-certificates), or let the variable SSL_CERT_FILE name a PEM \
                 file with the server's own"
            .to_owned(),
    };
    let reason = format!("the certificate of {base} cannot be checked: no trusted certificates can be read ({why})");
    NoClient::NoCertificates { reason, hint }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        match self.webpki.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // Before webpki says any of these, it has looked at the validity.
            Err(rustls::Error::InvalidCertificate(error))
                if (is_not_signed_by_trusted(&error) || is_authority(&error))
                    && self.trusted.iter().any(|it| it == end_entity) =>
            {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            result => result,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls12_signature(message, certificate, signature).map_err(key_error)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.webpki.verify_tls13_signature(message, certificate, signature).map_err(key_error)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.webpki.supported_verify_schemes()
    }
}

/// Tells a handshake that is badly signed from a certificate that is.
fn key_error(error: rustls::Error) -> rustls::Error {
    match error {
        rustls::Error::InvalidCertificate(_) => {
            rustls::Error::InvalidCertificate(rustls::CertificateError::ApplicationVerificationFailure)
        }
        other => other,
    }
}

/// Whether a certificate was refused for its signature: no trusted certificate has the name of its
/// issuer, or that one has another key, or the algorithm is not accepted.
fn is_not_signed_by_trusted(error: &rustls::CertificateError) -> bool {
    matches!(
        error,
        rustls::CertificateError::UnknownIssuer
            | rustls::CertificateError::BadSignature
            | rustls::CertificateError::UnsupportedSignatureAlgorithmContext { .. }
            | rustls::CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. }
    )
}

/// Whether a certificate was refused for calling itself an authority.
fn is_authority(error: &rustls::CertificateError) -> bool {
    matches!(webpki_error(error), Some(webpki::Error::CaUsedAsEndEntity))
}

fn webpki_error(error: &rustls::CertificateError) -> Option<&webpki::Error> {
    match error {
        rustls::CertificateError::Other(other) => other.0.downcast_ref(),
        _ => None,
    }
}

/// What a handshake failed for, if `cause` is rustls's account of it.
pub(super) fn handshake_error(cause: &(dyn Error + 'static)) -> Option<HandshakeError> {
    Some(match cause.downcast_ref()? {
        rustls::Error::InvalidCertificate(error) => HandshakeError::Certificate(certificate_error(error)),
        rustls::Error::InvalidMessage(_) => HandshakeError::NoTls,
        rustls::Error::PeerIncompatible(_)
        | rustls::Error::AlertReceived(
            AlertDescription::HandshakeFailure
            | AlertDescription::ProtocolVersion
            | AlertDescription::InsufficientSecurity,
        ) => HandshakeError::NothingInCommon,
        _ => HandshakeError::Other,
    })
}

fn certificate_error(error: &rustls::CertificateError) -> CertificateError {
    let since_epoch = |time: &UnixTime| Duration::from_secs(time.as_secs());
    match error {
        rustls::CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | rustls::CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            CertificateError::Other("its signature is of a kind that is too weak (SHA-1), or not known".to_owned())
        }
        _ if is_not_signed_by_trusted(error) => CertificateError::Untrusted,
        rustls::CertificateError::NotValidForNameContext { presented, .. } => {
            CertificateError::OtherHost(presented.iter().map(|name| plain_name(name)).collect())
        }
        rustls::CertificateError::ExpiredContext { not_after, .. } => CertificateError::Expired(since_epoch(not_after)),
        rustls::CertificateError::NotValidYetContext { not_before, .. } => {
            CertificateError::NotYetValid(since_epoch(not_before))
        }
        rustls::CertificateError::ApplicationVerificationFailure => CertificateError::Key,
        other => match webpki_error(other) {
            Some(webpki::Error::CaUsedAsEndEntity) => CertificateError::Authority,
            Some(webpki::Error::UnsupportedCertVersion) => CertificateError::Version1,
            _ => CertificateError::Other(excerpt(&other.to_string(), 200)),
        },
    }
}

/// A name as people write it; webpki tells it as `DnsName("llm.lan")` or `IpAddress(10.0.0.1)`.
fn plain_name(name: &str) -> String {
    let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"').to_owned()
}
