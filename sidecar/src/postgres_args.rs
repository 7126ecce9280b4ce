//! Where the row of an election is, if it is held in PostgreSQL.

use anyhow::{Context, Result};
use conch_crds::names::sidecar_env;
use conch_election::Timing;
use conch_stores::postgres::{Options, PostgresStore, Settings};
use std::{convert::Infallible, fmt, path::PathBuf, str::FromStr};

/// How to reach the table.
#[derive(Clone, Debug, clap::Args)]
pub struct PostgresArgs {
    /// With --store postgres: the database, as `postgresql://USER:PASSWORD@HOST1,HOST2/DATABASE?sslmode=require`. Better in the
    /// environment or the file than here, where every user of the machine can read it.
    #[arg(
        long,
        env = sidecar_env::POSTGRES_URL,
        value_name = "URL",
        hide_env_values = true,
        hide_default_value = true
    )]
    pub postgres_url: Option<SecretUrl>,
    /// Certificates, in PEM, of the authorities that may sign the server's, instead of the machine's own.
    #[arg(long, env = sidecar_env::POSTGRES_CA, value_name = "FILE")]
    pub postgres_ca: Option<PathBuf>,
    /// Schema of the table `conch_elections`. All candidates of an election need the same one.
    #[arg(long, env = sidecar_env::POSTGRES_SCHEMA, value_name = "NAME", default_value = "public")]
    pub postgres_schema: String,
    /// Create the table if it is missing.
    #[arg(
        long,
        env = sidecar_env::POSTGRES_CREATE_TABLE,
        value_name = "BOOL",
        num_args = 0..=1,
        default_value_t = false,
        default_missing_value = "true",
        action = clap::ArgAction::Set
    )]
    pub postgres_create_table: bool,
}

/// A URL that holds a password, and never shows it.
#[derive(Clone, PartialEq, Eq)]
pub struct SecretUrl(String);

impl PostgresArgs {
    /// The store of `election`. Says what is wrong with the URL, without showing it.
    pub fn store(&self, election: String, timing: Timing) -> Result<PostgresStore> {
        let SecretUrl(url) = self.postgres_url.as_ref().with_context(|| {
            format!(
                "--store postgres needs the database's URL in {} or --postgres-url",
                sidecar_env::POSTGRES_URL
            )
        })?;
        let settings = Settings::new(url, self.postgres_ca.clone())?;
        let options = Options {
            schema: self.postgres_schema.clone(),
            create_table: self.postgres_create_table,
            patience: timing.attempt_timeout(),
            renew_interval: timing.renew_interval(),
        };
        Ok(PostgresStore::new(settings, election, options))
    }
}

impl FromStr for SecretUrl {
    type Err = Infallible;

    /// Takes anything: an error of the command line would show it.
    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for SecretUrl {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("SecretUrl")
    }
}

#[cfg(test)]
mod tests {
    use crate::args::{Args, Command};
    use clap::{CommandFactory, Parser};

    const URL: &str = "postgresql://conch:s3cr3t-of-the-test@db/shop";

    fn serve(more: &[&str]) -> super::PostgresArgs {
        let arguments = ["conch-sidecar", "serve", "--election", "e", "--store", "postgres"];
        match Args::try_parse_from(arguments.iter().chain(more)).unwrap().command {
            Command::Serve(serve) => serve.hold.postgres,
            other => panic!("{other:?}"),
        }
    }

    fn timing() -> conch_election::Timing {
        let seconds = std::time::Duration::from_secs;
        conch_election::Timing::new(seconds(15), seconds(2), seconds(3), seconds(5)).unwrap()
    }

    #[test]
    fn the_url_is_needed_and_its_password_is_never_shown() {
        let refused = serve(&[]).store("default/e".to_owned(), timing()).unwrap_err().to_string();
        assert!(refused.contains("CONCH_POSTGRES_URL"), "{refused}");
        let whole = serve(&["--postgres-url", URL]);
        let store = whole.store("default/e".to_owned(), timing()).unwrap();
        let broken = serve(&["--postgres-url", &format!("{URL}?sslmode=maybe")]);
        let refused = broken.store("default/e".to_owned(), timing()).unwrap_err();
        let shown = format!("{whole:?} {store:?} {refused:?}");
        assert!(!shown.contains("s3cr3t"), "{shown}");
        assert!(format!("{store:?}").contains("db:5432/shop"));
    }

    #[test]
    fn help_names_the_variable_and_not_what_the_file_says() {
        let command = Args::command()
            .mut_subcommand("serve", |serve| serve.mut_arg("postgres_url", |url| url.default_value(URL)));
        let help = command.clone().find_subcommand_mut("serve").unwrap().render_long_help().to_string();
        assert!(help.contains("CONCH_POSTGRES_URL") && !help.contains("s3cr3t"), "{help}");
    }

    #[test]
    fn the_table_is_created_only_if_that_is_said() {
        assert!(!serve(&[]).postgres_create_table);
        assert!(serve(&["--postgres-create-table"]).postgres_create_table);
        assert!(serve(&["--postgres-create-table", "true"]).postgres_create_table);
        assert!(!serve(&["--postgres-create-table=false"]).postgres_create_table);
    }
}
