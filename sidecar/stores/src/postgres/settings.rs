//! What a URL says about servers, and how one of them is reached: one host at a time, over TLS where it asks for it.

use rustls::{ClientConfig, RootCertStore, pki_types::CertificateDer, pki_types::pem::PemObject};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio_postgres::{
    Config,
    config::{Host, SslMode},
};
use tokio_postgres_rustls::MakeRustlsConnect;

/// A silent connection is probed after this time, then in this interval, and dead after so many probes without an answer:
/// as short as for an API server, because nothing else shows that the network lost a connection which only listens.
const KEEPALIVE: Duration = Duration::from_secs(2);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
const KEEPALIVE_PROBES: u32 = 2;

/// Where the table is and how it is reached. Never shows the password.
#[derive(Clone)]
pub struct Settings {
    servers: Vec<Config>,
    /// The certificate authorities of the server, in PEM, instead of the machine's.
    authorities: Option<PathBuf>,
}

/// Why a URL cannot be used. Never shows the password.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// It is no URL of PostgreSQL, or holds something that is not known. Neither says what stands in it.
    #[error(
        "the URL of PostgreSQL cannot be used: {0}; it looks like \
         postgresql://USER:PASSWORD@HOST1,HOST2/DATABASE?sslmode=require, with special characters of the password as %XX; \
         sslmode is disable, prefer or require, and certificates are always verified, against --postgres-ca or the \
         machine's authorities"
    )]
    Url(String),
    /// It names no server.
    #[error("the URL of PostgreSQL names no host")]
    NoHost,
}

/// Why there is no TLS.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("failed to read the certificate authorities in {0}")]
    File(PathBuf, #[source] rustls::pki_types::pem::Error),
    #[error("{0} holds no certificate in PEM")]
    NoCertificate(PathBuf),
    #[error("TLS cannot be set up")]
    Rustls(#[from] rustls::Error),
}

impl Settings {
    /// What `url` says; `authorities` is a file with the certificates, in PEM, of those who may sign the server's, instead of
    /// the machine's own. Several hosts are one database system: the one that takes writes is used.
    pub fn new(url: &str, authorities: Option<PathBuf>) -> Result<Self, SettingsError> {
        // The messages of this parser name options and positions, but a character that it did not expect may be one of
        // the password's.
        let config: Config = url.parse().map_err(|error| SettingsError::Url(reason(&error)))?;
        let count = config.get_hosts().len().max(config.get_hostaddrs().len());
        if count == 0 {
            return Err(SettingsError::NoHost);
        }
        let matches = |length: usize| length == 0 || length == count;
        let ports = config.get_ports().len();
        if !matches(config.get_hosts().len())
            || !matches(config.get_hostaddrs().len())
            || !(ports == 1 || matches(ports))
        {
            return Err(SettingsError::Url("as many ports and addresses as hosts are needed".to_owned()));
        }
        Ok(Self { servers: (0..count).map(|index| server(&config, index)).collect(), authorities })
    }

    /// One for each host.
    pub(super) fn servers(&self) -> &[Config] {
        &self.servers
    }

    /// Reads the authorities anew, so that they can be changed while the process runs.
    pub(super) fn tls(&self) -> Result<MakeRustlsConnect, TlsError> {
        let mut roots = RootCertStore::empty();
        if self.servers.iter().any(|server| server.get_ssl_mode() != SslMode::Disable) {
            match &self.authorities {
                Some(path) => add_from(path, &mut roots)?,
                None => {
                    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
                }
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        Ok(MakeRustlsConnect::new(config.with_root_certificates(roots).with_no_client_auth()))
    }
}

fn add_from(path: &Path, roots: &mut RootCertStore) -> Result<(), TlsError> {
    let file = |error| TlsError::File(path.to_owned(), error);
    let certificates = CertificateDer::pem_file_iter(path).map_err(file)?;
    for certificate in certificates {
        roots.add(certificate.map_err(file)?)?;
    }
    if roots.is_empty() { Err(TlsError::NoCertificate(path.to_owned())) } else { Ok(()) }
}

/// What is wrong with a URL, without anything that may stand in it.
fn reason(error: &tokio_postgres::Error) -> String {
    let source = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    if source.starts_with("unknown option") || source.starts_with("invalid value for option") {
        source
    } else {
        "it cannot be parsed".to_owned()
    }
}

/// What the URL says of its `index`-th server alone.
fn server(all: &Config, index: usize) -> Config {
    let mut one = Config::new();
    if let Some(user) = all.get_user() {
        one.user(user);
    }
    if let Some(password) = all.get_password() {
        one.password(password);
    }
    if let Some(dbname) = all.get_dbname() {
        one.dbname(dbname);
    }
    if let Some(options) = all.get_options() {
        one.options(options);
    }
    match all.get_hosts().get(index) {
        Some(Host::Tcp(name)) => drop(one.host(name)),
        Some(Host::Unix(path)) => drop(one.host_path(path)),
        None => {}
    }
    if let Some(address) = all.get_hostaddrs().get(index) {
        one.hostaddr(*address);
    }
    if let Some(port) = all.get_ports().get(index).or_else(|| all.get_ports().first()) {
        one.port(*port);
    }
    if let Some(timeout) = all.get_connect_timeout() {
        one.connect_timeout(*timeout);
    }
    one.application_name(all.get_application_name().unwrap_or("conch-sidecar"))
        .ssl_mode(all.get_ssl_mode())
        .ssl_negotiation(all.get_ssl_negotiation())
        .channel_binding(all.get_channel_binding())
        .keepalives_idle(KEEPALIVE)
        .keepalives_interval(KEEPALIVE_INTERVAL)
        .keepalives_retries(KEEPALIVE_PROBES)
        .tcp_user_timeout(KEEPALIVE + KEEPALIVE_INTERVAL * KEEPALIVE_PROBES);
    one
}

/// `HOST:PORT` of one server.
pub(super) fn address(server: &Config) -> String {
    let port = server.get_ports().first().copied().unwrap_or(5_432);
    match (server.get_hosts().first(), server.get_hostaddrs().first()) {
        (Some(Host::Tcp(name)), _) => format!("{name}:{port}"),
        (Some(Host::Unix(path)), _) => format!("{}:{port}", path.display()),
        (None, Some(address)) => format!("{address}:{port}"),
        (None, None) => "nowhere".to_owned(),
    }
}

/// Servers and database, without the user.
impl fmt::Display for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let addresses: Vec<String> = self.servers.iter().map(address).collect();
        write!(formatter, "{}", addresses.join(","))?;
        match self.servers.first().and_then(|server| server.get_dbname()) {
            Some(database) => write!(formatter, "/{database}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Settings({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "s3cr3t-of-the-test";

    fn settings(url: &str) -> Result<Settings, SettingsError> {
        Settings::new(url, None)
    }

    #[test]
    fn each_host_of_a_url_is_a_server_with_the_same_user_password_and_database() {
        let url = format!("postgresql://conch:{PASSWORD}@one:5433,two:5434/shop?sslmode=require");
        let settings = settings(&url).unwrap();
        assert_eq!(settings.to_string(), "one:5433,two:5434/shop");
        for (server, port) in settings.servers().iter().zip([5_433, 5_434]) {
            assert_eq!((server.get_hosts().len(), server.get_ports()), (1, &[port][..]));
            assert_eq!(
                (server.get_user(), server.get_password()),
                (Some("conch"), Some(PASSWORD.as_bytes()))
            );
            assert_eq!((server.get_dbname(), server.get_ssl_mode()), (Some("shop"), SslMode::Require));
        }
        let shared = settings_of_one_port();
        assert_eq!(shared.to_string(), "a:6000,b:6000/shop");
    }

    fn settings_of_one_port() -> Settings {
        settings("host=a,b port=6000 dbname=shop user=u").unwrap()
    }

    #[test]
    fn the_password_is_never_shown() {
        let good = settings(&format!("postgresql://conch:{PASSWORD}@one/shop")).unwrap();
        let shown = format!("{good} {good:?} {:?}", good.servers());
        assert!(!shown.contains(PASSWORD), "{shown}");
        for bad in [
            format!("postgresql://conch:{PASSWORD}@one:port/shop"),
            format!("postgresql://conch:{PASSWORD}@one/shop?sslmode=verify-full"),
            format!("postgresql://conch:{PASSWORD}@one/shop?sslrootcert=/ca.pem"),
            format!("conch:{PASSWORD}@one/shop"),
            format!("password='{PASSWORD}"),
            format!("password={PASSWORD} user=conch"),
        ] {
            let refused = settings(&bad).unwrap_err();
            let said = format!("{refused} {refused:?}");
            assert!(!said.contains(PASSWORD) && said.contains("URL"), "{said}");
        }
    }

    #[test]
    fn what_is_wrong_with_a_url_is_said() {
        let said = |url: &str| settings(url).unwrap_err().to_string();
        assert!(said("postgresql://u@h/d?sslmode=verify-full").contains("`sslmode`"));
        assert!(said("postgresql://u@h/d?sslrootcert=x").contains("`sslrootcert`"));
        assert!(said("postgresql://u@/d").contains("no host"));
        assert!(said("host=a,b,c port=1,2 user=u").contains("as many ports"));
    }

    #[test]
    fn authorities_that_are_missing_or_empty_are_said() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ca.pem");
        let tls = |url: &str| Settings::new(url, Some(path.clone())).unwrap().tls().map(drop);
        let said = tls("postgresql://u@h/d?sslmode=require").unwrap_err().to_string();
        assert!(said.contains("ca.pem"), "{said}");
        std::fs::write(&path, "nothing").unwrap();
        assert!(matches!(tls("postgresql://u@h/d"), Err(TlsError::NoCertificate(_))));
        assert!(tls("postgresql://u@h/d?sslmode=disable").is_ok(), "they are not needed");
    }
}
