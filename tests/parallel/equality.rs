//! The same bits for every number of ranks.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use crate::support::{
    Workspace, backend,
    process::{has_mpirun, run},
    threads,
};

/// What must not show in the bits (ranks, who holds the moments) and what may (update rule, masks).
type Settings = (usize, &'static str, &'static str, &'static str);

/// Every value of each setting together with every value of each other one.
const PAIRS: [Settings; 8] = [
    (1, "sharded", "adamw", "token"),
    (8, "replicated", "adamw", "token"),
    (2, "replicated", "adamw", "ngram"),
    (4, "sharded", "adamw", "ngram"),
    (2, "sharded", "lamb", "token"),
    (4, "replicated", "lamb", "token"),
    (1, "replicated", "lamb", "ngram"),
    (8, "sharded", "lamb", "ngram"),
];

/// Metrics and hash of runs of 50 steps, by update rule and masks; all of one kind must be equal.
#[derive(Default)]
struct Results(BTreeMap<(&'static str, &'static str), (String, Vec<String>, String)>);

impl Results {
    #[track_caller]
    fn add(&mut self, workspace: &Workspace, name: &str, kind: (&'static str, &'static str)) {
        let (metrics, hash) = (workspace.metrics_text(name), workspace.hash(name, 50));
        assert_eq!(metrics.len(), 51, "50 steps and an evaluation");
        let clipped = |line: &serde_json::Value| line["grad_norm"].as_f64().unwrap() > MAX_NORM;
        assert!(workspace.metrics(name, "train").iter().any(clipped), "{name}: nothing was clipped");
        let (first, expected, expected_hash) =
            self.0.entry(kind).or_insert_with(|| (name.to_string(), metrics.clone(), hash.clone()));
        assert_eq!(&metrics, expected, "{name} and {first}");
        assert_eq!(&hash, expected_hash, "{name} and {first}");
    }
}

const MAX_NORM: f64 = 0.5;

/// Overrides of a run of 50 steps with these settings. Dropout is 0.1, and a rank accumulates over 8 / ranks slots.
fn overrides_of((_, state, optimizer, masks): Settings) -> Vec<String> {
    vec![
        "schedule.total_steps=50".to_string(),
        format!("optimizer.max_grad_norm={MAX_NORM}"),
        format!("distributed.optimizer_state={state}"),
        format!("optimizer.kind={optimizer}"),
        format!("optimizer.bias_correction={}", optimizer == "lamb"),
        format!("masking.strategy={masks}"),
    ]
}

fn train_all(workspace: &Workspace, results: &mut Results, all: impl IntoIterator<Item = Settings>) {
    for settings in all {
        let (num_ranks, state, optimizer, masks) = settings;
        let name = format!("{optimizer}-{masks}-{num_ranks}-{state}");
        let overrides = overrides_of(settings);
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        run(workspace.mpirun(num_ranks, &name, &overrides)).expect_code(0);
        results.add(workspace, &name, (optimizer, masks));
    }
}

#[test]
fn every_pair_of_settings_gives_the_same_bits() {
    if has_mpirun() {
        let mut results = Results::default();
        train_all(&Workspace::new(), &mut results, PAIRS);
        let hashes: std::collections::BTreeSet<_> = results.0.values().map(|(.., hash)| hash).collect();
        assert_eq!(hashes.len(), 4, "update rules and masks do change bits");
    }
}

#[test]
fn all_settings_give_the_same_bits() {
    if env::var_os("BERT_TRAIN_SLOW_TESTS").is_none() {
        println!("skipped: all combinations of ranks and settings; set BERT_TRAIN_SLOW_TESTS to run it");
        return;
    }
    if has_mpirun() {
        let (workspace, mut results) = (Workspace::new(), Results::default());
        for (optimizer, masks) in
            [("adamw", "token"), ("adamw", "ngram"), ("lamb", "token"), ("lamb", "ngram")]
        {
            let of_state = |state| [1, 2, 4, 8].map(|num_ranks| (num_ranks, state, optimizer, masks));
            train_all(&workspace, &mut results, ["sharded", "replicated"].into_iter().flat_map(of_state));
        }
    }
}

#[test]
fn ranks_as_threads_train_the_weights_of_processes() {
    if !has_mpirun() {
        return;
    }
    let (workspace, mut results) = (Workspace::new(), Results::default());
    for settings in [PAIRS[3], PAIRS[4]] {
        let (num_ranks, _, optimizer, masks) = settings;
        train_all(&workspace, &mut results, [settings]);
        let overrides = overrides_of(settings);
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        let name = format!("threads-{optimizer}");
        threads::train(&workspace, num_ranks, &name, &overrides);
        results.add(&workspace, &name, (optimizer, masks));
        let record = fs::read_to_string(workspace.run_dir(&name).join("run.json")).unwrap();
        assert!(record.contains("threads (ranks of one process)"), "{record}");
    }
}

/// The program named by the environment, built against MPICH; says so where there is none.
fn mpich_program() -> Option<PathBuf> {
    let program = env::var_os("BERT_TRAIN_MPICH_PROGRAM").map(PathBuf::from);
    if program.is_none() {
        println!("skipped: MPICH; set BERT_TRAIN_MPICH_PROGRAM to a bert-train built against it");
    }
    program
}

#[test]
fn mpich_trains_the_weights_of_open_mpi() {
    let Some(program) = mpich_program() else { return };
    if !has_mpirun() {
        return;
    }
    let (workspace, mut results) = (Workspace::new(), Results::default());
    for settings in [PAIRS[2], PAIRS[5]] {
        let (num_ranks, _, optimizer, masks) = settings;
        train_all(&workspace, &mut results, [settings]);
        let overrides = overrides_of(settings);
        let overrides: Vec<&str> = overrides.iter().map(String::as_str).collect();
        let name = format!("mpich-{optimizer}");
        run(workspace.mpich(&program, num_ranks, &name, &overrides)).expect_code(0);
        results.add(&workspace, &name, (optimizer, masks));
        let record = fs::read_to_string(workspace.run_dir(&name).join("run.json")).unwrap();
        assert!(
            record.contains("MPICH") && record.contains(&format!("\"num_ranks\": {num_ranks}")),
            "{record}"
        );
    }
    // Failures end with their own code and one message under its launcher too.
    let refused = run(workspace.mpich(&program, 2, "refused", &["train.globl_batch_size=8"])).expect_code(2);
    refused.expect_error(&["did you mean `global_batch_size`"]);
}

/// 18 slots: 3 ranks have 6 of them and 6 ranks 3, which are no subtrees of the sum.
#[test]
fn three_and_six_ranks_train_close_to_one_and_say_so() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["schedule.total_steps=50", "train.global_batch_size=36", "train.micro_batch_size=2"];
    let is_equal = |name: &str| {
        let record = fs::read_to_string(workspace.run_dir(name).join("run.json")).unwrap();
        serde_json::from_str::<serde_json::Value>(&record).unwrap()["equal_for_any_num_ranks"].clone()
    };
    let alone = run(workspace.solo("alone", &overrides)).expect_code(0);
    assert!(!alone.stderr.contains("last bits"), "{}", alone.stderr);
    assert_eq!(is_equal("alone"), true);
    for num_ranks in [3, 6] {
        let name = format!("ranks-{num_ranks}");
        let finished = run(workspace.mpirun(num_ranks, &name, &overrides)).expect_code(0);
        let said = finished.stderr.lines().take(4).any(|line| line.contains("differ in the last bits"));
        assert!(said, "{}", finished.stderr);
        assert_eq!(is_equal(&name), false);
        check_close(&workspace, &name, "alone", 1e-5);
    }
}

#[test]
fn gradients_as_bf16_are_rounded_once_and_said_to_be() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let (steps, bf16) = ("schedule.total_steps=12", "distributed.wire=bf16");
    let lamb = ["optimizer.kind=lamb", "optimizer.bias_correction=true"];
    for (optimizer, rule) in [("adamw", &[][..]), ("lamb", &lamb[..])] {
        let name = |state: &str| format!("{optimizer}-{state}");
        let overrides = |more: &[&'static str]| [&[steps], rule, more].concat();
        run(workspace.mpirun(2, &name("f32"), &overrides(&[]))).expect_code(0);
        let replicated = "distributed.optimizer_state=replicated";
        let late = "distributed.overlap=false";
        for (state, more) in
            [("bf16", &[bf16][..]), ("replicated", &[bf16, replicated]), ("late", &[bf16, late])]
        {
            let finished = run(workspace.mpirun(2, &name(state), &overrides(more))).expect_code(0);
            let said = finished.stderr.lines().take(4).any(|line| line.contains("differ in the last bits"));
            assert!(said, "{}", finished.stderr);
            assert_eq!(
                workspace.metrics_text(&name(state)),
                workspace.metrics_text(&name("bf16")),
                "{state}"
            );
            assert_eq!(workspace.hash(&name(state), 12), workspace.hash(&name("bf16"), 12), "{state}");
        }
        assert_ne!(workspace.curve(&name("bf16")), workspace.curve(&name("f32")));
        check_close(&workspace, &name("bf16"), &name("f32"), 1e-3);
    }
    // One rank rounds its sum too; the wire is part of the run.
    let alone = run(workspace.solo("alone", &[steps, bf16])).expect_code(0);
    assert!(alone.stderr.contains("differ in the last bits"), "{}", alone.stderr);
    assert_ne!(workspace.curve("alone"), workspace.curve("adamw-f32"));
    check_close(&workspace, "alone", "adamw-f32", 1e-3);
    run(workspace.mpirun(2, "adamw-bf16", &[steps]))
        .expect_code(3)
        .expect_error(&["distributed.wire", "f32"]);
}

#[test]
fn overlap_changes_no_bit() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let steps = "schedule.total_steps=10";
    run(workspace.mpirun(2, "overlapped", &[steps])).expect_code(0);
    for (name, more) in [
        ("late", &["distributed.overlap=false"][..]),
        ("late-replicated", &["distributed.overlap=false", "distributed.optimizer_state=replicated"]),
    ] {
        run(workspace.mpirun(2, name, &[&[steps], more].concat())).expect_code(0);
        assert_eq!(workspace.metrics_text(name), workspace.metrics_text("overlapped"));
        assert_eq!(workspace.hash(name, 10), workspace.hash("overlapped", 10));
    }
}

#[test]
fn one_two_and_four_ranks_train_the_same_weights() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    run(workspace.solo("alone", &[])).expect_code(0);
    let (curve, hash) = (workspace.curve("alone"), workspace.hash("alone", 30));
    assert_eq!(curve.len(), 30);
    for num_ranks in [1, 2, 4] {
        let name = format!("ranks-{num_ranks}");
        run(workspace.mpirun(num_ranks, &name, &[])).expect_code(0);
        assert_eq!(workspace.curve(&name), curve, "{num_ranks} ranks");
        assert_eq!(workspace.hash(&name, 30), hash, "{num_ranks} ranks");
        if let Some(printed) = workspace.printed_hash(&name, 30) {
            assert_eq!(printed, hash, "{num_ranks} ranks");
        }
        let figures = |name: &str| {
            let line = workspace.metrics(name, "eval").pop().unwrap();
            ["mlm_loss", "mlm_accuracy", "nsp_loss"].map(|key| line[key].to_string())
        };
        assert_eq!(figures(&name), figures("alone"), "{num_ranks} ranks");
    }
}

/// The order by blocks is as pure as the global one: ranks and a stop in the middle change nothing.
#[test]
fn blocks_train_the_same_weights_on_one_and_two_ranks_and_across_a_stop() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let overrides = ["data.order=blocks", "checkpoint.every_steps=10"];
    run(workspace.solo("global", &[])).expect_code(0);
    run(workspace.solo("alone", &overrides)).expect_code(0);
    let (curve, hash) = (workspace.curve("alone"), workspace.hash("alone", 30));
    assert_ne!(curve, workspace.curve("global"));
    run(workspace.mpirun(2, "ranks", &overrides)).expect_code(0);
    assert_eq!((workspace.curve("ranks"), workspace.hash("ranks", 30)), (curve.clone(), hash.clone()));
    fs::remove_dir_all(workspace.checkpoint("ranks", 30)).unwrap();
    let finished = run(workspace.mpirun(2, "ranks", &overrides)).expect_code(0);
    assert!(finished.stderr.contains("continuing after step 20"), "{}", finished.stderr);
    assert_eq!((workspace.curve("ranks"), workspace.hash("ranks", 30)), (curve, hash));
    run(workspace.mpirun(2, "ranks", &[])).expect_code(3).expect_error(&["data.order", "global"]);
}

#[test]
fn weighted_sources_train_the_same_weights_on_one_and_two_ranks() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    fs::write(workspace.path("more.txt"), crate::support::text::corpus(30)).unwrap();
    let sources =
        |weight: &str| format!("data.sources=[\"corpus.txt\", {{ path = \"more.txt\", weight = {weight} }}]");
    let finished = run(workspace.solo("alone", &[&sources("0.4")])).expect_code(0);
    assert!(finished.stderr.contains("source `more.txt` x 0.4: 30 documents"), "{}", finished.stderr);
    run(workspace.mpirun(2, "ranks", &[&sources("0.4")])).expect_code(0);
    workspace.check_same("ranks", "alone", 30);
    // Another weight is another run, from the same shards.
    run(workspace.solo("alone", &[&sources("2")])).expect_code(3).expect_error(&["data.sources", "2.0"]);
    run(workspace.solo("other", &[&sources("2")])).expect_code(0);
    assert_ne!(workspace.curve("other"), workspace.curve("alone"));
    let absent = "data.sources=[\"corpus.txt\", { path = \"absent/*.txt\", weight = 2.0 }]";
    run(workspace.solo("absent", &[absent])).expect_code(2).expect_error(&["absent/*.txt"]);
}

#[test]
fn who_holds_the_moments_does_not_matter() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let steps = "schedule.total_steps=8";
    run(workspace.mpirun(2, "sharded", &[steps])).expect_code(0);
    let replicated = "distributed.optimizer_state=replicated";
    run(workspace.mpirun(2, "replicated", &[steps, replicated])).expect_code(0);
    workspace.check_same("replicated", "sharded", 8);
}

#[test]
fn lamb_knows_the_size_of_a_parameter_that_several_ranks_hold() {
    if !has_mpirun() {
        return;
    }
    let workspace = Workspace::new();
    let lamb = ["schedule.total_steps=8", "optimizer.kind=lamb", "optimizer.bias_correction=true"];
    // Wide enough that slices of ranks begin inside of a parameter.
    let lamb = [&lamb[..], &["model.hidden_size=256", "model.intermediate_size=512"]].concat();
    run(workspace.solo("alone", &lamb)).expect_code(0);
    for (num_ranks, state) in [(2, "sharded"), (4, "sharded"), (2, "replicated")] {
        let name = format!("{state}-{num_ranks}");
        let state = format!("distributed.optimizer_state={state}");
        run(workspace.mpirun(num_ranks, &name, &[&lamb[..], &[&state]].concat())).expect_code(0);
        workspace.check_same(&name, "alone", 8);
    }
}

/// The losses of two runs differ by rounding only.
#[track_caller]
fn check_close(workspace: &Workspace, name: &str, other: &str, tolerance: f64) {
    let losses = |name: &str| -> Vec<f64> {
        workspace.metrics(name, "train").iter().map(|line| line["loss"].as_f64().unwrap()).collect()
    };
    for (one, other) in losses(name).iter().zip(losses(other)) {
        assert!((one - other).abs() < tolerance * other, "{one} and {other}");
    }
}

#[test]
fn the_number_of_threads_does_not_matter() {
    let workspace = Workspace::new();
    let (steps, two) = ("schedule.total_steps=8", "run.threads_per_rank=2");
    run(workspace.solo("one-thread", &[steps])).expect_code(0);
    run(workspace.solo("two-threads", &[steps, two])).expect_code(0);
    if backend() == "flex" {
        workspace.check_same("two-threads", "one-thread", 8);
        return;
    }
    // Other libraries may split sums over threads: the same number of them gives the same bits.
    check_close(&workspace, "two-threads", "one-thread", 1e-4);
    run(workspace.solo("two-threads-again", &[steps, two])).expect_code(0);
    workspace.check_same("two-threads-again", "two-threads", 8);
}

#[test]
fn backends_train_close_to_each_other() {
    let workspace = Workspace::new();
    let steps = "schedule.total_steps=8";
    let flex = run(workspace.solo("on-flex", &[steps, "device.backend=flex"])).expect_code(0);
    let here = run(workspace.solo("here", &[steps])).expect_code(0);
    check_close(&workspace, "here", "on-flex", 1e-4);
    let first_line = |text: &str| text.lines().next().unwrap_or_default().to_string();
    assert!(first_line(&flex.stderr).contains("backend flex: device.backend"), "{}", flex.stderr);
    let expected = format!("backend {}: device.backend", backend());
    assert!(first_line(&here.stderr).contains(&expected), "{}", here.stderr);
}
