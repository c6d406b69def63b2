//! Tests of the rules on code: each finds its planted fault and leaves its neighbours alone.

use super::super::tests::{file, places};
use super::*;

fn rust(path: &str, text: &str) -> RustFile {
    RustFile::new(&file(path, text), &[])
}

#[track_caller]
fn check_found(rule: impl Fn(&RustFile) -> Vec<Fault>, path: &str, text: &str, lines: &[usize]) {
    let got: Vec<usize> = rule(&rust(path, text)).iter().map(|fault| fault.line).collect();
    assert_eq!(got, lines, "{path}: {text}");
}

#[test]
fn words_are_whole() {
    assert!(has_word("unsafe {", "unsafe") && has_word("(unsafe)", "unsafe"));
    assert!(!has_word("unsafe_code", "unsafe") && !has_word("not_unsafe", "unsafe"));
    assert!(has_word("x.unwrap()?", ".unwrap()") && !has_word("x.unwrap_or(y)", ".unwrap()"));
    assert!(!has_word("eprintln!()", "println!") && has_word("std::println!()", "println!"));
}

#[test]
fn unsafe_has_four_homes() {
    let text = "//! The only `unsafe`.\n#[expect(unsafe_code)]\nfn f() { unsafe { g() } }\n";
    check_found(unsafe_places, "crates/bert-model/src/ops/raw.rs", text, &[3]);
    check_found(unsafe_places, "crates/bert-coordinator/src/plan.rs", text, &[3]);
    check_found(unsafe_places, "crates/bert-kernels/src/adamw.rs", text, &[3]);
    check_found(unsafe_places, "tests/single/main.rs", text, &[3]);
    for home in [
        "bert-coordinator/src/comm/mpi.rs",
        "bert-coordinator/src/comm/mpi/raw.rs",
        "bert-kernels/src/huge_pages.rs",
        "bert-kernels/src/simd.rs",
        "bert-model/src/ops/raw/libtorch.rs",
    ] {
        check_found(unsafe_places, &format!("crates/{home}"), text, &[]);
    }
}

#[test]
fn unwraps_are_for_tests() {
    let text = "fn f() {\n    g().unwrap();\n    h().unwrap_or(1);\n}\n\n#[cfg(test)]\nmod tests {\n    g().unwrap();\n}\n";
    check_found(unwraps, "crates/a/src/lib.rs", text, &[2]);
    check_found(unwraps, "crates/a/src/b/tests.rs", text, &[]);
    check_found(unwraps, "crates/a/tests/c.rs", text, &[]);
    let early = "#[cfg(test)]\nmod contract;\n\nfn f() {\n    g().unwrap();\n}\n#[cfg(test)]\n#[rustfmt::skip]\nmod t {\n    g().unwrap();\n";
    check_found(unwraps, "crates/a/src/lib.rs", early, &[5]);
    check_found(unwraps, "crates/a/src/lib.rs", "/// f().unwrap()\nfn g() {}\n", &[]);
}

#[test]
fn a_module_declared_for_tests_is_a_test() {
    let files = [
        file("crates/a/src/lib.rs", "mod comm;\n#[cfg(test)]\npub(crate) mod bench;\n"),
        file("crates/a/src/comm.rs", "#[cfg(test)]\nmod contract;\n#[cfg(test)]\nuse x::y;\n"),
    ];
    let modules = test_modules(&files);
    let text = "fn f() {\n    g().unwrap();\n}\n";
    let faults_of = |path: &str| unwraps(&RustFile::new(&file(path, text), &modules)).len();
    assert_eq!(faults_of("crates/a/src/comm/contract.rs"), 0);
    assert_eq!(faults_of("crates/a/src/comm/contract/deep.rs"), 0);
    assert_eq!(faults_of("crates/a/src/bench.rs"), 0);
    assert_eq!(faults_of("crates/a/src/comm/contractor.rs"), 1);
    assert_eq!(faults_of("crates/a/src/comm.rs"), 1);
}

#[test]
fn pure_crates_have_neither_files_nor_clocks() {
    let files = "use std::fs;\nuse std::{io, fs::File};\nlet offs = 1;\n";
    check_found(absences, "crates/bert-model/src/stage.rs", files, &[1, 2]);
    check_found(absences, "crates/bert-model/src/hf.rs", files, &[]);
    check_found(absences, "crates/bert-model/src/hf/names.rs", files, &[]);
    check_found(absences, "crates/bert-coordinator/src/plan.rs", files, &[1, 2]);
    check_found(absences, "crates/bert-data/src/shards.rs", files, &[]);
    let clocks = "use std::time::{Duration, Instant};\nlet now = std::time::SystemTime::now();\n";
    for package in ["bert-model", "bert-random", "bert-kernels"] {
        check_found(absences, &format!("crates/{package}/src/a.rs"), clocks, &[1, 2]);
    }
    check_found(absences, "crates/bert-model/src/hf.rs", clocks, &[1, 2]);
    check_found(absences, "crates/bert-coordinator/src/a.rs", clocks, &[]);
}

#[test]
fn a_second_listing_of_a_crate_is_found() {
    let text = "fn f() {\n    std::fs::read_dir(path)\n}\n";
    let at = |path: &str| rust(path, text);
    let files =
        [at("crates/bert-data/src/a.rs"), at("crates/bert-data/src/b.rs"), at("crates/bert-train/src/a.rs")];
    assert_eq!(places(&listings(&files)), ["crates/bert-data/src/b.rs:2"]);
    assert!(listings(&files[1..]).is_empty());
}

#[test]
fn only_binaries_print_or_exit() {
    let text = "fn f() {\n    eprintln!();\n    std::process::exit(1);\n    write!(f, \"println!\");\n    eprint!();\n}\n";
    check_found(printing, "crates/bert-train/src/step.rs", text, &[2, 3, 5]);
    for binary in
        ["crates/bert-train/src/main.rs", "crates/bert-tools/src/audit.rs", "crates/xtask/src/main.rs"]
    {
        check_found(printing, binary, text, &[]);
    }
    check_found(printing, "tests/parallel/main.rs", text, &[]);
    check_found(printing, "crates/bert-coordinator/src/abort.rs", text, &[2, 5]);
    check_found(printing, "crates/bert-coordinator/src/agree.rs", text, &[2, 3, 5]);
}

#[test]
fn leftover_macros_are_found_even_in_tests() {
    let text = "fn f() {\n    todo!()\n}\n#[cfg(test)]\nmod tests {\n    dbg!(1);\n    // todo!()\n}\n";
    check_found(leftover_macros, "crates/a/src/lib.rs", text, &[2, 6]);
    check_found(leftover_macros, "tests/single/a.rs", "fn f() { unimplemented!(\"x\") }\n", &[1]);
}
