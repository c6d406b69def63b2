//! A whole run whose ranks are threads of the test: the library's own path, without the shortening of `--debug`.

use std::{thread, time::Duration};

use bert_coordinator::{Coordinator, CoordinatorOptions, Launch, ThreadCommunicator};
use bert_train::{
    config::{self, Config},
    device,
    error::TrainError,
    fault::Faults,
    launch::Rank,
    run_dir::RunDir,
    screen::Screen,
    setup::{self, MachineUse},
    signals::StopFlag,
};

use super::{Workspace, backend};

/// No wait of a rank for another may take longer.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Trains `tiny.toml` as the run `name` on threads of this process.
pub fn train(workspace: &Workspace, num_ranks: usize, name: &str, overrides: &[&str]) {
    let place = |key: &str, relative: &str| format!("{key}={}", workspace.path(relative).display());
    let mut all = vec![
        format!("run.name={name}"),
        format!("device.backend={}", backend()),
        format!("data.sources=[\"{}\"]", workspace.path("corpus.txt").display()),
        place("run.dir", "runs"),
        place("data.shards", "shards"),
        place("data.tokenizer", "vocab.txt"),
    ];
    all.extend(overrides.iter().map(ToString::to_string));
    let config = config::load(&workspace.path("tiny.toml"), &all).unwrap();
    thread::scope(|scope| {
        let start = |member| scope.spawn(|| run_rank(&config, member));
        let ranks: Vec<_> = ThreadCommunicator::group(num_ranks).into_iter().map(start).collect();
        ranks.into_iter().for_each(|rank| rank.join().expect("no rank panics").unwrap());
    });
}

fn run_rank(config: &Config, member: ThreadCommunicator) -> Result<(), TrainError> {
    let coordinator = Coordinator::launch(Launch::Thread(member), CoordinatorOptions { timeout: TIMEOUT })?;
    let run_dir = RunDir::new(config.run_dir());
    let _lock = setup::prepare_run_dir(&coordinator, config, &run_dir, false)?;
    let machine = MachineUse { backend: device::choose(config.device.backend, 0)?, num_threads: 1 };
    machine.backend.kind.set_num_threads(1);
    let (screen, stop) = (Screen::plain(), &StopFlag::default());
    let faults = Faults::default();
    let rank = Rank {
        config,
        coordinator: &coordinator,
        run_dir: &run_dir,
        screen,
        stop,
        machine,
        faults,
        is_debug: false,
    };
    rank.train()?;
    Ok(coordinator.shutdown()?)
}
