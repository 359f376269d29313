//! The daemon's entry point: flags, configuration, locks, logs, run, exit
//! code.
//!
//! Logs start once the locks are held, because the log file belongs to the
//! gateway that holds them. What goes wrong before is told on standard error.

use std::{
    io::{self, Write as _},
    panic,
    process::ExitCode,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::Context as _;
use clap::Parser as _;
use moltbot_protocol::methods::config::ConfigPlan;
use moltbot_settings::account::ActingAs;
use moltbotd::{
    boot::{self, Ended, Failure, Start},
    channels,
    cli::{Cli, Command},
    config::{
        self, AuthSecrets, Bind, Config, GivenToken, Live, Loaded, SecretsError, Source, StartCheck,
    },
    environment::Environment,
    inherited::Inherited,
    lock::Guards,
    logging::{Known, Logs, Settings},
    paths::{Paths, UserFolders, expand_home},
    private::Narrowed,
    providers, shutdown, state,
    supervisor::{self, Supervisor},
};
use nix::sys::stat::{Mode, umask};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tracing::{error, info, warn};

const USAGE: u8 = 64;
const MOST_WORKERS: usize = 4;
/// More work that blocks waits in the runtime's queue.
const MOST_BLOCKING_THREADS: usize = 64;
/// How long blocking work may hold up the exit once everything is drained.
const LAST_WAIT: Duration = Duration::from_millis(500);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Nothing can be done about a closed standard output.
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    // Also covers files that libraries create.
    umask(Mode::from_bits_truncate(0o077));
    match &cli.command {
        Some(Command::State(arguments)) => {
            let refused = if arguments.json { refused_in_json } else { refused };
            return state::run(arguments, &cli.paths()).map_or_else(refused, ExitCode::from);
        }
        Some(Command::Check) => {
            return check(&cli).map_or_else(refused, |()| ExitCode::SUCCESS);
        }
        Some(Command::Plan) => {
            return plan(&cli).map_or_else(refused, |()| ExitCode::SUCCESS);
        }
        None => {}
    }
    let prepared = match prepare(&cli) {
        Ok(prepared) => prepared,
        Err(failure) => return refused(failure),
    };
    match serve(prepared) {
        Ok(Ended::Stopped) => ExitCode::SUCCESS,
        Ok(Ended::Restart) => supervisor::RESTART.into(),
        Err(failure) => {
            // In the message too: a journal shows people nothing else.
            error!(error = %failure, code = failure.exit_code(), "stopped: {failure}");
            failure.exit_code().into()
        }
    }
}

/// Tells on standard error why nothing was done: there are no logs yet.
fn refused(failure: Failure) -> ExitCode {
    let _ = writeln!(io::stderr(), "moltbotd: {failure}");
    failure.exit_code().into()
}

/// Tells the same in the form in which `moltbotctl --json` tells errors.
fn refused_in_json(failure: Failure) -> ExitCode {
    let error = json!({ "message": failure.to_string(), "code": null, "advice": null });
    let _ = writeln!(io::stderr(), "{}", json!({ "ok": false, "error": error }));
    failure.exit_code().into()
}

/// Says what is wrong with the configuration; the last good one is no excuse
/// here.
fn check(cli: &Cli) -> Result<(), Failure> {
    let environment = Environment::current();
    let user = UserFolders::of_this_user();
    let paths = Paths::resolve(&cli.paths(), &environment, user.as_ref())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let _acting = as_owner(&paths)?;
    let loaded = source(cli, &paths, &environment, false)?.load();
    for warning in &loaded.warnings {
        let _ = writeln!(io::stderr(), "moltbotd: {warning}");
    }
    for (key, what) in config::restrictions(&loaded.config) {
        let _ = writeln!(io::stdout(), "{key}: {what}");
    }
    if loaded.is_valid() {
        return Ok(());
    }
    let issues: Vec<_> = loaded.issues.iter().map(ToString::to_string).collect();
    let text = issues.join("\n");
    let is_refused = loaded.refused || loaded.unreadable;
    Err(if is_refused { Failure::Refused(text) } else { Failure::Config(text) })
}

/// Root looks at a configuration with the eyes of the user whose gateway reads
/// it: what that user cannot read or would not trust is what is to be found.
fn as_owner(paths: &Paths) -> Result<Option<ActingAs>, Failure> {
    let Some(folder) = paths.config_file.parent() else { return Ok(None) };
    let acting = ActingAs::owner_of(folder);
    Ok(acting.with_context(|| format!("cannot act as the owner of {}", folder.display()))?)
}

/// What is needed before anything runs.
struct Prepared {
    paths: Paths,
    config: Live,
    secrets: AuthSecrets,
    given: GivenToken,
    port: u16,
    bind: Bind,
    reach: Bind,
    tailscale: config::Tailscale,
    logs: Logs,
    inherited: Inherited,
    locks: Guards,
    supervisor: Option<Supervisor>,
}

/// Answers what a change of the configuration would do, and changes nothing.
fn plan(cli: &Cli) -> Result<(), Failure> {
    let environment = Environment::current();
    let user = UserFolders::of_this_user();
    let paths = Paths::resolve(&cli.paths(), &environment, user.as_ref())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    let _acting = as_owner(&paths)?;
    let source = source(cli, &paths, &environment, false)?;
    let request: ConfigPlan = serde_json::from_reader(io::stdin().lock())
        .map_err(|error| Failure::Usage(format!("standard input: {error}")))?;
    let files = request.files.into_iter().map(|(file, text)| (file.into(), text)).collect();
    let text = serde_json::to_string(&source.plan(files)).expect("answers serialize");
    Ok(writeln!(io::stdout(), "{text}").context("cannot write to standard output")?)
}

fn prepare(cli: &Cli) -> Result<Prepared, Failure> {
    let environment = Environment::current();
    let inherited = Inherited::take(&environment);
    let user = UserFolders::of_this_user();
    let paths = Paths::resolve(&cli.paths(), &environment, user.as_ref())
        .map_err(|error| Failure::Usage(error.to_string()))?;
    state::backup::finish_interrupted(&paths)?;
    let source = source(cli, &paths, &environment, inherited.is_exposed())?;
    let (loaded, trouble) = usable(&source, &paths)?;
    if let Some(why) = cli.elsewhere(&loaded.config) {
        return Err(Failure::Config(why));
    }
    let port = cli.port(&environment, &loaded.config).map_err(Failure::Usage)?;
    let bind = cli.bind(&loaded.config);

    let mut narrowed = paths.create()?;
    let locks = Guards::acquire(&paths)?;
    state::backup::finish(&paths)?;
    let given = cli.given_token();
    let secrets = AuthSecrets::resolve(&given, &loaded.config, &loaded.config.variables, &paths)
        .map_err(refusal)?;
    let reach = if inherited.is_exposed() { Bind::Lan } else { bind };
    let told = cli.over(loaded.config.clone());
    secrets.check(reach, &told).map_err(refusal)?;
    let logs = start_logs(cli, &loaded, &paths, &environment, &secrets)?;
    panic::set_hook(Box::new(|panic| error!(%panic, "panic")));
    narrowed.extend(loaded.narrowed.iter().cloned());
    report(&loaded, &narrowed);
    if let Some(trouble) = &trouble {
        error!(trouble, "started with the last good configuration");
    }
    let mut config = Live::of(source, loaded);
    if let Some(trouble) = trouble {
        config = config.in_trouble(trouble);
    }
    let config = config.copied_to(paths.last_good_config());
    let supervisor = Supervisor::of_this_process(&environment);
    let tailscale = told.gateway.tailscale;
    Ok(Prepared {
        paths,
        config,
        secrets,
        given,
        port,
        bind,
        reach,
        tailscale,
        logs,
        inherited,
        locks,
        supervisor,
    })
}

fn source(
    cli: &Cli,
    paths: &Paths,
    environment: &Environment,
    exposed: bool,
) -> Result<Source, Failure> {
    let given = cli.given_token();
    let bind = if exposed { Some(Bind::Lan) } else { cli.bind };
    let (start_paths, flags) = (paths.clone(), cli.clone());
    let start = move |config: &Config| {
        if let Some(why) = flags.elsewhere(config) {
            return Some(why);
        }
        let config = &flags.over(config.clone());
        let bind = bind.unwrap_or(config.gateway.bind);
        AuthSecrets::refusal(&given, bind, config, &config.variables, &start_paths)
    };
    Ok(Source {
        file: paths.config_file.clone(),
        // A unit may name the usual place, where there is nothing at first.
        must_exist: cli.config.is_some()
            && !paths.is_usual_config(UserFolders::of_this_user().as_ref()),
        environment: environment.clone().with_credentials(paths.credentials_dir.as_deref())?,
        channel: Some(channels::check),
        models: Some(providers::check),
        start: Some(StartCheck(Arc::new(start))),
    })
}

/// Returns what to start with: what the file says, else what it said when it
/// was last good, with the reason.
fn usable(source: &Source, paths: &Paths) -> Result<(Loaded, Option<String>), Failure> {
    // What would not be safe is refused later, with a code of its own.
    let source = &Source { start: None, ..source.clone() };
    let loaded = source.load();
    let good = || source.last_good(&paths.last_good_config());
    if loaded.is_valid() {
        if loaded.raw.is_none()
            && let Some(good) = good()
        {
            return Ok((good, Some(config::gone(&source.file))));
        }
        return Ok((loaded, None));
    }
    let issues: Vec<_> = loaded.issues.iter().map(ToString::to_string).collect();
    let text = issues.join("\n");
    if loaded.refused {
        return Err(Failure::Refused(text));
    }
    match good() {
        Some(good) => Ok((good, Some(config::kept(&loaded, &issues[0])))),
        None if loaded.unreadable => Err(Failure::Refused(text)),
        None => Err(Failure::Config(text)),
    }
}

fn refusal(error: SecretsError) -> Failure {
    match error {
        SecretsError::Refused(text) => Failure::Refused(text),
        SecretsError::File(error) => error.into(),
        SecretsError::Io { .. } => Failure::Other(error.into()),
    }
}

fn start_logs(
    cli: &Cli,
    loaded: &Loaded,
    paths: &Paths,
    environment: &Environment,
    secrets: &AuthSecrets,
) -> Result<Logs, Failure> {
    let logging = &loaded.config.logging;
    let wanted = logging.file.as_deref().map(|file| paths.log_dir.join(expand_home(file)));
    let known = [&secrets.token, &secrets.password].into_iter().flatten();
    let settings = Settings {
        format: cli.log_format,
        level: cli.log.unwrap_or(logging.level).filter(),
        usual_file: &paths.log_file(),
        wanted_file: wanted.as_deref(),
        keep: logging.keep(),
        own_secrets: known.filter_map(|secret| Known::of(secret.reveal())).collect(),
        redactions: logging.redactions(&loaded.secrets()),
        profile: paths.profile_name(),
    };
    Logs::start(settings, environment)
        .map(|logs| if cli.log.is_some() { logs.pinned() } else { logs })
        .map_err(|error| Failure::Other(error.into()))
}

fn report(loaded: &Loaded, narrowed: &Narrowed) {
    for (path, mode) in narrowed {
        let (path, mode) = (path.display(), format!("{mode:04o}"));
        warn!(%path, mode, "others could get at this, so its mode was narrowed");
    }
    for warning in &loaded.warnings {
        warn!(%warning, "configuration");
    }
}

fn serve(prepared: Prepared) -> Result<Ended, Failure> {
    let Prepared {
        paths,
        config,
        secrets,
        given,
        port,
        bind,
        reach,
        tailscale,
        logs,
        inherited,
        locks,
        supervisor,
    } = prepared;
    let runtime = runtime()?;
    let shares_default_port = paths.profile.is_some() && port == Config::default().gateway.port;
    let (profile, config_file) = (paths.profile_name().to_owned(), paths.config_file.clone());
    let version = env!("CARGO_PKG_VERSION");
    info!(version, profile = paths.profile_name(), state = %paths.state_dir.display(), "starting");
    let ended = runtime.block_on(async {
        let signals = shutdown::signals().context("cannot listen for signals")?;
        boot::run(Start {
            paths,
            config: Arc::new(config),
            secrets,
            given,
            port,
            bind,
            reach,
            tailscale,
            logs,
            stop: signals.stop,
            reload: signals.reload,
            inherited,
            locks,
            supervisor,
        })
        .await
    });
    runtime.shutdown_timeout(LAST_WAIT);
    supervisor::finish();
    match ended {
        // The default profile has that port for good, so that no later try ends better.
        Err(Failure::AddressInUse(text)) if shares_default_port => Err(Failure::Config(format!(
            "{text}; profile {profile} has no port of its own: set gateway.port in {}, or begin \
             with: moltbotctl profile create {profile}",
            config_file.display()
        ))),
        ended => ended,
    }
}

fn runtime() -> Result<Runtime, Failure> {
    let cores = thread::available_parallelism().map_or(1, usize::from);
    let runtime = Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_WORKERS))
        .max_blocking_threads(MOST_BLOCKING_THREADS)
        .thread_name("moltbotd")
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    Ok(runtime)
}
