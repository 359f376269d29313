//! The daemon's entry point: flags, paths, configuration, locks, logs, run.

use std::{io::Write as _, process::ExitCode, sync::Arc};

use anyhow::Context as _;
use clap::Parser as _;
use moltbotd::{
    boot::{self, Failure, Start},
    cli::Cli,
    config::{AuthSecrets, Config, GivenToken, Live, SecretsError},
    environment::Environment,
    lock::Guards,
    logging::Logs,
    paths::{Paths, UserFolders},
    shutdown,
};

const USAGE: u8 = 64;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { USAGE } else { 0 });
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // Logs may not run yet, so the reason goes where it can be seen.
            let _ = writeln!(std::io::stderr(), "moltbotd: {failure}");
            ExitCode::from(failure.exit_code())
        }
    }
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let environment = Environment::current();
    let user = UserFolders::of_this_user();
    let paths = Paths::resolve(&cli.paths(), &environment, user.as_ref())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let config = read_config(&paths)?;
    let port = cli.port(&environment, &config).map_err(Failure::Usage)?;
    let bind = cli.bind(&config);
    paths.create()?;
    let locks = Guards::acquire(&paths)?;
    let level = cli.log.unwrap_or(config.logging.level).filter();
    let profile = paths.profile_name();
    let logs = Logs::start(cli.log_format, level, &paths.log_file(), profile, &environment)
        .context("cannot start logs")?;
    let given = GivenToken { token: cli.token.clone(), file: cli.token_file.clone() };
    let secrets = AuthSecrets::resolve(&given, &config, &environment, &paths).map_err(unsafe_)?;
    secrets.check(bind, &config).map_err(unsafe_)?;
    let workers = std::thread::available_parallelism().map_or(2, |cores| cores.get().min(4));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(workers)
        .enable_all()
        .build()
        .context("cannot start threads")?;
    runtime.block_on(async {
        let signals = shutdown::signals().context("cannot listen for signals")?;
        let config = Arc::new(Live::new(config));
        let (stop, reload) = (signals.stop, signals.reload);
        boot::run(Start { paths, config, secrets, port, bind, logs, stop, reload, locks }).await
    })
}

fn read_config(paths: &Paths) -> Result<Config, Failure> {
    let path = &paths.config_file;
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Config::default()),
        Err(error) => {
            return Err(Failure::Config(format!("cannot read {}: {error}", path.display())));
        }
    };
    json5::from_str(&text).map_err(|error| Failure::Config(format!("{}: {error}", path.display())))
}

fn unsafe_(error: SecretsError) -> Failure {
    match error {
        SecretsError::Refused(text) => Failure::Refused(text),
        other => Failure::Other(other.into()),
    }
}
