//! What a person sees: log lines, and a progress bar on a terminal.
//!
//! Owns the bar and the tracing subscriber. In a pipe there is no bar and every line is plain text.

use std::{
    fs::OpenOptions,
    io::{self, IsTerminal, Write},
    path::Path,
    sync::Mutex,
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::{
    Layer,
    filter::LevelFilter,
    fmt::{self, MakeWriter},
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

use crate::{
    config::{Level, LogSection, Progress},
    error::TrainError,
    terminal,
};

/// The progress bar, or nothing.
#[derive(Clone, Debug)]
pub struct Screen {
    bar: ProgressBar,
}

impl Screen {
    /// A bar over `total_steps` where rank 0 talks to a terminal; otherwise an invisible one.
    #[must_use]
    pub fn new(log: &LogSection, total_steps: u64, is_first: bool) -> Self {
        let is_wanted = is_first && log.progress == Progress::Auto;
        let target = if is_wanted { terminal::draw_target() } else { ProgressDrawTarget::hidden() };
        let bar = ProgressBar::with_draw_target(Some(total_steps), target);
        let template = "{elapsed_precise} [{wide_bar}] {pos}/{len} steps, {eta} left {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        if !bar.is_hidden() {
            bar.enable_steady_tick(Duration::from_millis(500));
        }
        Self { bar }
    }

    /// A screen without a bar.
    #[must_use]
    pub fn plain() -> Self {
        Self { bar: ProgressBar::hidden() }
    }

    /// Whether a bar is drawn.
    #[must_use]
    pub fn has_bar(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Moves the bar.
    pub fn progress(&self, step: u64, message: &str) {
        self.bar.set_position(step);
        self.bar.set_message(message.to_string());
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Writes whole log lines above the bar.
struct AboveBar {
    screen: Screen,
}

impl Write for AboveBar {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.screen.bar.suspend(|| io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

impl<'a> MakeWriter<'a> for Screen {
    type Writer = io::LineWriter<Box<dyn Write + 'a>>;

    fn make_writer(&'a self) -> Self::Writer {
        io::LineWriter::new(Box::new(AboveBar { screen: self.clone() }))
    }
}

fn level_filter(level: Level) -> LevelFilter {
    match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
        Level::Trace => LevelFilter::TRACE,
    }
}

/// Starts logging: human lines on standard error from rank 0, JSON lines into `json_log` on every rank.
///
/// # Errors
///
/// [`TrainError`] if the file cannot be opened or logging was started before.
pub fn start_logging(
    log: &LogSection,
    screen: &Screen,
    is_first: bool,
    json_log: &Path,
) -> Result<(), TrainError> {
    let file = OpenOptions::new().create(true).append(true).open(json_log).map_err(|source| {
        TrainError::Io { step: "cannot open the log", path: json_log.to_path_buf(), source }
    })?;
    let level = level_filter(log.level);
    let human = is_first.then(|| {
        let layer =
            fmt::layer().with_writer(screen.clone()).with_target(false).with_ansi(io::stderr().is_terminal());
        layer.with_filter(level)
    });
    let json = fmt::layer().json().with_writer(Mutex::new(file)).with_filter(level);
    tracing_subscriber::registry()
        .with(human)
        .with(json)
        .try_init()
        .map_err(|error: TryInitError| TrainError::Setup(format!("logging was already started: {error}")))
}
