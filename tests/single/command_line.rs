//! The command line: what is printed, what it ends with.

use std::{fs, process::Command};

use crate::support::{BERT_TRAIN, Workspace, backend, process::run};

#[test]
fn print_config_prints_the_effective_configuration() {
    let workspace = Workspace::new();
    let mut command = workspace.solo("printed", &["run.seed=99"]);
    command.arg("--print-config");
    let finished = run(command).expect_code(0);
    let printed: toml::Table = toml::from_str(&finished.stdout).unwrap();
    let mut expected: toml::Table =
        toml::from_str(&fs::read_to_string(workspace.path("tiny.toml")).unwrap()).unwrap();
    expected["run"]["name"] = "printed".into();
    expected["run"]["seed"] = 99.into();
    expected["device"]["backend"] = backend().into();
    assert_eq!(printed, expected);
    assert!(!workspace.path("runs").exists(), "printing writes nothing");
}

#[test]
fn dry_run_tells_the_plan_and_trains_nothing() {
    let workspace = Workspace::new();
    let mut command = workspace.solo("planned", &[]);
    command.arg("--dry-run");
    let finished = run(command).expect_code(0);
    for part in ["parameters", "slots of a step", "8 of 2 sequences", "bucket `heads`", "bucket `embeddings`"]
    {
        assert!(finished.stdout.contains(part), "{part:?} is not in:\n{}", finished.stdout);
    }
    assert!(finished.stdout.contains("corpus.txt x 1: unknown before"), "{}", finished.stdout);
    assert!(!workspace.path("runs").exists());
    let twice = "data.sources=[{ path = \"corpus.txt\", weight = 2.0 }]";
    run(workspace.solo("trained", &["schedule.total_steps=1", twice])).expect_code(0);
    let mut command = workspace.solo("planned", &[twice]);
    command.arg("--dry-run");
    let finished = run(command).expect_code(0);
    assert!(finished.stdout.contains("60 documents, 120.0 readings per epoch"), "{}", finished.stdout);
}

#[test]
fn dry_run_tells_what_travels_and_whether_the_number_of_ranks_shows() {
    let workspace = Workspace::new();
    let plan = |overrides: &[&str]| {
        let mut command = workspace.solo("planned", overrides);
        command.arg("--dry-run").env("OMPI_COMM_WORLD_RANK", "0").env("OMPI_COMM_WORLD_SIZE", "2");
        run(command).expect_code(0).stdout
    };
    let line = |plan: &str, name: &str| {
        let line = plan.lines().find(|line| line.starts_with(&format!("# {name}"))).unwrap().to_string();
        line.replace(&format!("# {name}"), "").trim().to_string()
    };
    let megabytes = |text: &str| text.split(' ').next().unwrap().parse::<f64>().unwrap();
    // Some megabytes, so that a tenth of one does not show.
    let wide = ["model.hidden_size=256", "model.intermediate_size=8192"];
    let (f32, bf16) = (plan(&wide), plan(&[&wide[..], &["distributed.wire=bf16"]].concat()));
    let (sent, rounded) = (line(&f32, "gradients sent per step"), line(&bf16, "gradients sent per step"));
    assert!(sent.ends_with("MB as f32") && rounded.ends_with("MB as bf16"), "{sent}; {rounded}");
    assert!((megabytes(&sent) / megabytes(&rounded) - 2.0).abs() < 0.1, "{sent}; {rounded}");
    assert_eq!(line(&f32, "gathered from it per step"), line(&bf16, "gathered from it per step"));
    assert_eq!(line(&f32, "same bits as with one rank"), "yes");
    assert!(line(&bf16, "same bits as with one rank").starts_with("no: distributed.wire"), "{bf16}");
}

#[test]
fn debug_runs_ranks_as_threads_and_shows_samples() {
    let workspace = Workspace::new();
    for num_ranks in ["1", "2", "4"] {
        let mut command = workspace.solo("checked", &[]);
        command.args(["--debug", "--debug-ranks", num_ranks]);
        let finished = run(command).expect_code(0);
        assert!(finished.stdout.contains("every check held"), "{}", finished.stdout);
        assert!(finished.stdout.contains("[CLS]"), "{}", finished.stdout);
        assert_eq!(workspace.metrics("checked-debug", "train").len(), 3);
    }
    assert!(!workspace.run_dir("checked").exists(), "a debug run does not touch the run itself");
}

#[test]
fn debug_ranks_train_like_one_rank() {
    let workspace = Workspace::new();
    run(workspace.solo("alone", &[])).expect_code(0);
    let mut command = workspace.solo("checked", &[]);
    command.args(["--debug", "--debug-ranks", "4"]);
    run(command).expect_code(0);
    assert_eq!(workspace.curve("checked-debug"), workspace.curve("alone")[..3]);
}

#[test]
fn a_finished_run_is_not_trained_again() {
    let workspace = Workspace::new();
    run(workspace.solo("done", &["schedule.total_steps=2"])).expect_code(0);
    let hash = workspace.hash("done", 2);
    let again = run(workspace.solo("done", &["schedule.total_steps=2"])).expect_code(0);
    assert!(again.stderr.contains("all 2 steps of this run are done"), "{}", again.stderr);
    assert_eq!(workspace.curve("done").len(), 2);
    assert_eq!(workspace.hash("done", 2), hash);
}

#[test]
fn a_checkpoint_can_be_named_and_is_a_hugging_face_folder() {
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=6", "checkpoint.every_steps=2"];
    run(workspace.solo("named", &overrides)).expect_code(0);
    let model = workspace.checkpoint("named", 4).join("model");
    for file in ["config.json", "model.safetensors", "vocab.txt", "tokenizer.json"] {
        assert!(model.join(file).is_file(), "{file}");
    }
    let (curve, hash) = (workspace.curve("named"), workspace.hash("named", 6));
    let mut command = workspace.solo("named", &overrides);
    command.args(["--resume", "runs/named/checkpoints/step-000000004"]);
    let finished = run(command).expect_code(0);
    assert!(finished.stderr.contains("continuing after step 4"), "{}", finished.stderr);
    assert_eq!(workspace.curve("named"), curve);
    assert_eq!(workspace.hash("named", 6), hash);
}

#[test]
fn weights_can_come_from_a_checkpoint() {
    let workspace = Workspace::new();
    run(workspace.solo("first", &["schedule.total_steps=2"])).expect_code(0);
    let from = "init.from=runs/first/checkpoints/latest";
    run(workspace.solo("second", &["schedule.total_steps=1", from, "schedule.peak_learning_rate=0"]))
        .expect_code(0);
    let weights = |name: &str, step| {
        bert_train::checkpoint::hash::checkpoint_hash(&workspace.checkpoint(name, step), false).unwrap()
    };
    assert_eq!(weights("second", 1), weights("first", 2), "a learning rate of 0 changes nothing");
}

#[test]
fn usage_errors_end_with_2() {
    let mut command = Command::new(BERT_TRAIN);
    command.arg("--no-such-flag");
    run(command).expect_code(2);
    run(Command::new(BERT_TRAIN)).expect_code(2);
    let mut command = Command::new(BERT_TRAIN);
    command.arg("absent.toml");
    run(command).expect_code(2).expect_error(&["absent.toml"]);
}
