//! Checkpoints of a run survive whatever stops the process, and damage is noticed.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tempfile::TempDir;
use vitrum::checkpoint::{Dtype, HostTensor};
use vitrum::train::recipe::Recipe;
use vitrum::train::resume::{
    Disk, Manifest, Os, Part, Parts, Resume, ResumeError, Store, StoreOptions, changed, folder_name, load,
    neutral,
};

/// What a run holds after `step` updates: a function of it alone.
fn content(step: u64, floats: usize) -> Parts {
    let values: Vec<f32> = (0..floats).map(|i| (step * 1000 + i as u64) as f32).collect();
    let tensor = |shift: f32| {
        let values: Vec<f32> = values.iter().map(|v| v + shift).collect();
        HostTensor::from_f32(vec![floats], &values).expect("a vector")
    };
    Parts::default()
        .with_tensors("model", [("head.weight".to_string(), tensor(0.0))])
        .with_tensors("optim", [("head.weight.m".to_string(), tensor(0.5))])
        .with_json("state", json!({ "step": step, "loss": 1.0 / (step as f64 + 3.0) }))
}

fn open(folder: &Path) -> Store {
    Store::open(folder, StoreOptions { keep_last: 2, ..StoreOptions::default() }).expect("a store")
}

fn names(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned())
        .filter(|name| name != ".lock")
        .collect();
    names.sort();
    names
}

fn pointer(folder: &Path, name: &str) -> String {
    std::fs::read_to_string(folder.join(name)).expect("a pointer").trim().to_string()
}

#[test]
fn what_is_saved_comes_back() {
    let folder = TempDir::new().expect("a folder");
    let store = open(folder.path());
    assert!(store.latest().expect("no error").is_none());
    let all = [
        Dtype::F64,
        Dtype::F32,
        Dtype::F16,
        Dtype::BF16,
        Dtype::I64,
        Dtype::I32,
        Dtype::I16,
        Dtype::I8,
        Dtype::U64,
        Dtype::U32,
        Dtype::U16,
        Dtype::U8,
        Dtype::Bool,
    ];
    let tensors = all.map(|dtype| {
        let bytes = (0..6 * dtype.size()).map(|i| (i % 2) as u8).collect();
        (dtype.name().to_string(), HostTensor::new(dtype, vec![2, 3], bytes).expect("a tensor"))
    });
    let parts = content(7, 10).with_tensors("every_type", tensors).with_tensors("none", []);
    let saved = store.save(12_500, &parts, Some(0.25)).expect("saved");
    assert_eq!(saved.path, folder.path().join("step-00012500"));
    assert!(saved.best && saved.leftovers.is_empty());
    let found = store.latest().expect("no error").expect("a checkpoint");
    assert_eq!((found.step, found.damaged.len()), (12_500, 0));
    let loaded = load(&found.path).expect("loaded");
    assert_eq!((loaded.step, loaded.metric), (12_500, Some(0.25)));
    assert_eq!(loaded.parts, parts);
    let mut files = names(&saved.path);
    files.sort();
    let expected = ["every_type.safetensors", "manifest.json", "model.safetensors", "none.safetensors"];
    assert_eq!(files, [&expected[..], &["optim.safetensors", "state.json"]].concat());
    assert_eq!(names(folder.path()), ["best", "last", "step-00012500"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]
    #[test]
    fn numbers_and_texts_of_json_come_back(bits in prop::collection::vec(any::<u64>(), 64), text in "(f64:|text:)*[a-z0-9.]*") {
        let numbers: Vec<f64> = bits.iter().map(|b| f64::from_bits(*b)).filter(|v| v.is_finite()).collect();
        // Metrics are shares: these are the numbers that matter.
        let shares: Vec<f64> = bits.iter().map(|b| (b % 50_000) as f64 / 49_999.0).collect();
        let state = json!({ "numbers": numbers, "deep": [{ "shares": shares, &text: text }], "n": u64::MAX });
        let folder = TempDir::new().expect("a folder");
        let path = open(folder.path()).save(1, &Parts::default().with_json("state", state.clone()), None).expect("saved").path;
        let read = load(&path).expect("loaded").parts.take_json("state", &path).expect("a state");
        prop_assert_eq!(&read, &state);
        let again: Vec<u64> = read["numbers"].as_array().expect("a list").iter().map(|v| v.as_f64().expect("a number").to_bits()).collect();
        prop_assert_eq!(again, numbers.iter().map(|v| v.to_bits()).collect::<Vec<_>>());
    }
}

#[test]
fn the_newest_and_the_best_are_kept() {
    let folder = TempDir::new().expect("a folder");
    let store = open(folder.path());
    let save = |step, metric| store.save(step, &content(step, 4), metric).expect("saved").best;
    assert!(!save(1, None));
    assert!(save(2, Some(0.5)));
    assert!(!save(3, Some(0.5)), "an equal metric is not better");
    assert!(!save(4, Some(f64::NAN)));
    assert!(!save(5, Some(0.4)));
    assert_eq!(names(folder.path()), ["best", "last", "step-00000002", "step-00000004", "step-00000005"]);
    assert_eq!(
        (pointer(folder.path(), "last"), pointer(folder.path(), "best")),
        (folder_name(5), folder_name(2))
    );
    assert_eq!(store.best(), Some(folder.path().join(folder_name(2))));
    assert!(save(6, Some(0.6)));
    assert_eq!(names(folder.path()), ["best", "last", "step-00000005", "step-00000006"]);
    assert_eq!(pointer(folder.path(), "best"), folder_name(6));

    let lower = StoreOptions { keep_last: 0, lower_is_better: true };
    let losses = TempDir::new().expect("a folder");
    let store = Store::open(losses.path(), lower).expect("a store");
    for (step, loss, best) in [(1, 2.0, true), (2, 3.0, false), (3, 1.0, true), (4, 1.5, false)] {
        assert_eq!(store.save(step, &content(step, 4), Some(loss)).expect("saved").best, best, "step {step}");
    }
    assert_eq!(names(losses.path()), ["best", "last", "step-00000003", "step-00000004"]);
}

#[test]
fn a_step_may_be_saved_again_and_a_run_may_go_back() {
    let folder = TempDir::new().expect("a folder");
    let store = open(folder.path());
    for step in [10, 20, 30] {
        store.save(step, &content(step, 4), Some(0.1)).expect("saved");
    }
    let twice = store.save(30, &content(31, 4), None).expect("saved");
    let loaded = load(&twice.path).expect("loaded");
    assert_eq!((loaded.parts, loaded.metric), (content(31, 4), Some(0.1)));
    assert_eq!(names(folder.path()), ["best", "last", "step-00000010", "step-00000020", "step-00000030"]);
    // From step 20 on once more: what was saved last is the newest, though its step is smaller.
    store.save(25, &content(25, 4), None).expect("saved");
    assert_eq!(store.latest().expect("no error").expect("a checkpoint").step, 25);
    assert_eq!(names(folder.path()), ["best", "last", "step-00000010", "step-00000025", "step-00000030"]);
}

#[test]
fn damage_is_noticed_and_the_next_older_one_is_taken() {
    let whole = TempDir::new().expect("a folder");
    let store = open(whole.path());
    store.save(1, &content(1, 50), None).expect("saved");
    let newest = store.save(2, &content(2, 50), None).expect("saved").path;
    for file in names(&newest) {
        let path = newest.join(&file);
        let bytes = std::fs::read(&path).expect("a file");
        let middle = bytes.len() / 2;
        let mut flipped = bytes.clone();
        flipped[middle] ^= 1;
        let mut cases =
            vec![Some(bytes[..middle].to_vec()), Some(Vec::new()), Some([&bytes[..], b" "].concat()), None];
        if file != "manifest.json" {
            cases.push(Some(flipped));
        } else {
            cases.remove(2); // A blank after a manifest changes nothing.
        }
        for (case, damage) in cases.into_iter().enumerate() {
            match &damage {
                Some(bytes) => std::fs::write(&path, bytes).expect("written"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            let found = store.latest().expect("an older one").expect("a checkpoint");
            assert_eq!(found.step, 1, "{file}, case {case}");
            let told = found.damaged[0].to_string();
            assert!(told.contains(&*path.to_string_lossy()), "{file}, case {case}: {told}");
            let refused = load(&newest).expect_err("refused").to_string();
            assert!(refused.contains(&file) && refused.contains("expected"), "{refused}");
            std::fs::write(&path, &bytes).expect("written");
        }
    }
    assert_eq!(store.latest().expect("no error").expect("whole again").step, 2);
    for step in [1, 2] {
        std::fs::write(whole.path().join(folder_name(step)).join("state.json"), "{}").expect("written");
    }
    for asked in [Resume::Auto, Resume::Newest] {
        let told = asked.find(whole.path()).expect_err("nothing whole is no fresh start").to_string();
        assert!(told.contains("step-00000001") && told.contains("step-00000002"), "{told}");
    }
}

#[test]
fn manifests_of_others_are_refused() {
    let folder = TempDir::new().expect("a folder");
    let path = open(folder.path()).save(3, &content(3, 4), None).expect("saved").path;
    let file = path.join("manifest.json");
    let good: Value = serde_json::from_slice(&std::fs::read(&file).expect("a file")).expect("JSON");
    let with = |key: &str, value: Value| {
        let mut manifest = good.clone();
        manifest[key] = value;
        std::fs::write(&file, manifest.to_string()).expect("written");
    };
    with("format", json!(2));
    assert!(matches!(load(&path), Err(ResumeError::Format { expected: 1, found: 2, .. })));
    with("files", json!({ "../outside": { "bytes": 0, "sha256": "" } }));
    assert!(matches!(load(&path), Err(ResumeError::Damaged { .. })));
    with("files", json!({ "weights.npz": { "bytes": 0, "sha256": "" } }));
    assert!(matches!(load(&path), Err(ResumeError::Damaged { .. })));
    with("step", json!(4));
    assert!(matches!(Resume::Newest.find(folder.path()), Err(ResumeError::AllDamaged { .. })));
    with("step", json!(3));
    let mut parts = load(&path).expect("loaded").parts;
    let told = parts.take_tensors("model_ema", &path).expect_err("not there").to_string();
    assert!(
        told.contains("model_ema.safetensors") && told.contains("optim.safetensors, state.json"),
        "{told}"
    );
    assert!(parts.take_json("model", &path).is_err());
    assert_eq!(parts.take_tensors("model", &path).expect("still there").len(), 1);
    for name in ["", "manifest", "a/b", "a.b"] {
        let parts = Parts::default().with_json(name, json!(1));
        assert!(matches!(open(folder.path()).save(5, &parts, None), Err(ResumeError::PartName { .. })));
    }
    assert_eq!(names(folder.path()), ["last", "step-00000003"]);
}

#[test]
fn places_to_resume_from() {
    let run = TempDir::new().expect("a folder");
    let checkpoints = run.path().join("checkpoints");
    assert!(Resume::Auto.find(&checkpoints).expect("no error").is_none());
    assert!(matches!(Resume::Newest.find(&checkpoints), Err(ResumeError::Nothing { .. })));
    let store = open(&checkpoints);
    store.save(1, &content(1, 4), Some(1.0)).expect("saved");
    store.save(2, &content(2, 4), Some(0.0)).expect("saved");
    let elsewhere = Path::new("no such run");
    let step = |asked: Resume| asked.find(elsewhere).expect("found").expect("a checkpoint").step;
    let path = |path: PathBuf| Resume::Path(path);
    assert_eq!(step(path(run.path().into())), 2);
    assert_eq!(step(path(checkpoints.clone())), 2);
    assert_eq!(step(path(checkpoints.join("step-00000001"))), 1);
    assert_eq!(step(path(checkpoints.join("best"))), 1);
    assert_eq!(step(path(checkpoints.join("last"))), 2);
    assert!(matches!(path(run.path().join("other")).find(elsewhere), Err(ResumeError::Nothing { .. })));
    assert_eq!(Resume::Newest.find(&checkpoints).expect("found").expect("a checkpoint").step, 2);
    for (text, asked) in
        [("", Resume::Newest), ("auto", Resume::Auto), ("runs/a", Resume::Path("runs/a".into()))]
    {
        assert_eq!(text.parse::<Resume>(), Ok(asked));
    }
    // One that is named itself is not replaced by another.
    std::fs::remove_file(checkpoints.join("step-00000002/state.json")).expect("removed");
    assert!(matches!(
        path(checkpoints.join("step-00000002")).find(elsewhere),
        Err(ResumeError::Damaged { .. })
    ));
}

#[test]
fn one_process_at_a_time() {
    let folder = TempDir::new().expect("a folder");
    let store = open(folder.path());
    let second = Store::open(folder.path(), StoreOptions::default()).err().expect("refused");
    assert!(matches!(second, ResumeError::Locked { .. }), "{second}");
    let told = second.to_string();
    assert!(told.contains(&format!("process {}", std::process::id())) && told.contains("hint:"), "{told}");
    drop(store);
    open(folder.path());
}

/// What happens when the budget of writes is used up.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Failure {
    /// Nothing more can be written; renaming and removing still work.
    Full,
    /// Nothing at all is done any more, as if the machine had stopped.
    Dead,
}

/// A disk with so many units left: a byte of a file is one, and so is every other operation.
#[derive(Clone)]
struct Faulty {
    left: Arc<AtomicI64>,
    /// What was left after each operation.
    after: Arc<Mutex<Vec<i64>>>,
    failure: Failure,
}

impl Faulty {
    fn new(budget: i64, failure: Failure) -> Self {
        Self { left: Arc::new(AtomicI64::new(budget)), after: Arc::default(), failure }
    }

    fn spend(&self, units: i64) -> io::Result<()> {
        let before = self.left.fetch_sub(units, Ordering::SeqCst);
        self.after.lock().expect("no panic").push(before - units);
        if before >= units { Ok(()) } else { Err(ErrorKind::StorageFull.into()) }
    }

    fn other(&self, action: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        if self.failure == Failure::Dead {
            self.spend(1)?;
        }
        action()
    }
}

impl Disk for Faulty {
    fn create_folders(&self, path: &Path) -> io::Result<()> {
        Os.create_folders(path)
    }

    fn create_folder(&self, path: &Path) -> io::Result<()> {
        self.spend(1)?;
        Os.create_folder(path)
    }

    fn write(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let room = self.left.load(Ordering::SeqCst).max(0) as usize;
        if self.failure == Failure::Full || room > 0 {
            std::fs::write(path, &bytes[..room.min(bytes.len())])?;
        }
        self.spend(bytes.len() as i64 + 1)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.other(|| Os.rename(from, to))
    }

    fn sync_folder(&self, _: &Path) -> io::Result<()> {
        // Nothing is forced to a real disk here: that takes its time and changes nothing that can be seen.
        self.other(|| Ok(()))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.other(|| {
            // Half of a folder is gone when a process stops in between.
            if self.failure == Failure::Dead && self.left.load(Ordering::SeqCst) == 0 {
                let first = names_if_folder(path).into_iter().next();
                return first.map_or(Ok(()), |name| std::fs::remove_file(path.join(name)));
            }
            Os.remove(path)
        })
    }
}

fn names_if_folder(path: &Path) -> Vec<String> {
    if path.is_dir() { names(path) } else { Vec::new() }
}

const KEEP_ONE: StoreOptions = StoreOptions { keep_last: 1, lower_is_better: false };
const PLENTY: i64 = 1 << 40;

/// A store with steps 1 and 2, the latter the newest, the former the best.
fn two_saved(folder: &Path, failure: Failure) -> (Store, Faulty) {
    let disk = Faulty::new(PLENTY, failure);
    let store = Store::with_disk(folder, KEEP_ONE, Box::new(disk.clone())).expect("a store");
    for old in [1, 2] {
        store.save(old, &content(old, 3), Some(-(old as f64))).expect("saved");
    }
    (store, disk)
}

/// Just before, at and after the end of each operation of saving `step`, and in its middle.
fn budgets(step: u64, failure: Failure) -> BTreeSet<i64> {
    let folder = TempDir::new().expect("a folder");
    let (store, disk) = two_saved(folder.path(), failure);
    disk.left.store(PLENTY, Ordering::SeqCst);
    disk.after.lock().expect("no panic").clear();
    store.save(step, &content(step, 3), Some(1.0)).expect("saved");
    let ends: Vec<i64> = disk.after.lock().expect("no panic").iter().map(|left| PLENTY - left).collect();
    let begins = [0].into_iter().chain(ends.clone());
    begins.zip(&ends).flat_map(|(from, to)| [from + 1, (from + to) / 2, to - 1, *to]).chain([0]).collect()
}

/// Saves `step` on a disk that fails after `budget`; true when that went well all the same.
fn survives(step: u64, budget: i64, failure: Failure) -> bool {
    let folder = TempDir::new().expect("a folder");
    let (store, disk) = two_saved(folder.path(), failure);
    disk.left.store(budget, Ordering::SeqCst);
    let outcome = store.save(step, &content(step, 3), Some(1.0));
    let context = format!("step {step}, {failure:?} after {budget}: {outcome:?}");
    let before = names(folder.path());
    if failure == Failure::Full && outcome.is_err() {
        assert!(before.iter().all(|name| !name.starts_with('.')), "{context}: left {before:?}");
        assert!(matches!(outcome, Err(ResumeError::Full { .. })), "{context}");
    }
    // A reader who only looks, and never opens the store.
    let seen = Resume::Newest.find(folder.path()).unwrap_or_else(|e| panic!("{context}: {e}")).expect("one");
    assert!(seen.damaged.is_empty(), "{context}: {:?}", seen.damaged);
    assert_eq!(load(&seen.path).expect("loaded").parts, content(seen.step, 3), "{context}");
    drop(store);

    let disk = Box::new(Faulty::new(PLENTY, failure));
    let store = Store::with_disk(folder.path(), KEEP_ONE, disk).unwrap_or_else(|e| panic!("{context}: {e}"));
    let found = store.latest().unwrap_or_else(|e| panic!("{context}: {e}")).expect("a checkpoint");
    assert!(found.damaged.is_empty(), "{context}: {:?}", found.damaged);
    assert!(found.step == step || found.step == 2, "{context}: step {}", found.step);
    assert!(outcome.is_err() || found.step == step, "{context}");
    let newest = load(&found.path).expect("loaded");
    assert_eq!(newest.parts, content(found.step, 3), "{context}");
    // The new metric is the highest: the checkpoint that has it is the best.
    let best = if newest.metric == Some(1.0) { found.step } else { 1 };
    assert_eq!(pointer(folder.path(), "best"), folder_name(best), "{context}");
    assert_eq!(pointer(folder.path(), "last"), folder_name(found.step), "{context}");
    let best = load(&store.best().expect("a best one")).expect("whole");
    assert_eq!(best.parts, content(best.step, 3), "{context}");
    let left = names(folder.path());
    assert!(left.iter().all(|name| !name.starts_with('.')), "{context}: left {left:?}");
    // And the run goes on.
    store.save(9, &content(9, 3), None).expect("saved");
    outcome.is_ok()
}

#[test]
fn whatever_write_fails_a_checkpoint_is_there() {
    for failure in [Failure::Full, Failure::Dead] {
        // A new step, and the newest once more.
        for step in [3, 2] {
            let budgets = budgets(step, failure);
            assert!(budgets.len() > 25, "{} budgets", budgets.len());
            let enough = budgets.iter().filter(|budget| survives(step, **budget, failure)).count();
            // Removing what is no longer wanted may fail without harm, and the last budget is just enough.
            assert!(enough >= 1 && enough < budgets.len() / 2, "{enough} of {}", budgets.len());
        }
    }
}

#[test]
fn a_full_disk_is_told() {
    let folder = TempDir::new().expect("a folder");
    let disk = Box::new(Faulty::new(500, Failure::Full));
    let store = Store::with_disk(folder.path(), StoreOptions::default(), disk).expect("a store");
    let told = store.save(1, &content(1, 1000), None).expect_err("no room").to_string();
    assert!(told.contains("model.safetensors") && told.contains("8000 bytes are needed"), "{told}");
    assert!(told.contains("hint:"), "{told}");
    #[cfg(unix)]
    assert!(told.contains("are free"), "{told}");
    assert!(names(folder.path()).is_empty());
}

const SAVER: &str = "VITRUM_TEST_SAVER";

/// What the killed process does; nothing when run as a test.
#[test]
fn saver() {
    let Some(folder) = std::env::var_os(SAVER) else { return };
    let store = open(Path::new(&folder));
    let mut step = store.latest().expect("readable").map_or(0, |found| {
        assert!(found.damaged.is_empty(), "{:?}", found.damaged);
        found.step
    });
    loop {
        // Each step is saved twice now and then.
        for _ in 0..1 + step % 3 / 2 {
            store.save(step, &content(step, 20_000), Some((step % 7) as f64)).expect("saved");
        }
        step += 1;
    }
}

#[test]
fn killed_at_any_moment() {
    let folder = TempDir::new().expect("a folder");
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(1);
    let mut newest = None;
    let mut unfinished = 0;
    for round in 0..300 {
        // Thirty rounds, and more where the disk is slow.
        if round >= 30 && unfinished > 0 && newest > Some(30) {
            break;
        }
        let patience = 80_000 * (1 + round / 30);
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["train::resume::saver", "--exact", "--test-threads=1"])
            .env(SAVER, folder.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a child");
        std::thread::sleep(Duration::from_micros(random.random_range(5_000..patience)));
        assert!(child.try_wait().expect("a child").is_none(), "round {round}: the child ended by itself");
        child.kill().expect("killed");
        child.wait().expect("gone");
        unfinished += usize::from(names(folder.path()).iter().any(|name| name.starts_with('.')));
        let Some(found) = Resume::Auto.find(folder.path()).expect("readable") else {
            assert!(newest.is_none(), "round {round}: all checkpoints are gone");
            continue;
        };
        assert!(found.damaged.is_empty(), "round {round}: {:?}", found.damaged);
        assert!(
            newest.is_none_or(|newest| found.step >= newest),
            "round {round}: went back to {}",
            found.step
        );
        newest = Some(found.step);
        assert_eq!(load(&found.path).expect("loaded").parts, content(found.step, 20_000), "round {round}");
        for name in ["last", "best"] {
            if folder.path().join(name).exists() {
                let target = folder.path().join(pointer(folder.path(), name));
                let target = if target.is_dir() { target } else { found.path.clone() };
                let loaded = load(&target).expect("what a pointer names is whole");
                assert_eq!(loaded.parts, content(loaded.step, 20_000), "round {round}: {name}");
            }
        }
    }
    assert!(newest > Some(30), "the children saved no more than {newest:?}");
    assert!(unfinished > 0, "no round hit a save that was under way");
    let store = open(folder.path());
    assert!(names(folder.path()).iter().all(|name| !name.starts_with('.')), "left over after opening");
    let manifest = Manifest::read(&store.best().expect("a best one")).expect("a manifest");
    assert!(manifest.metric.is_some());
}

#[test]
fn arguments_that_changed() {
    let old = Recipe { lr: Some(5e-4), ..Recipe::default() };
    assert!(changed(&old, &old.clone()).is_empty());
    let aside = Recipe {
        workers: 3,
        log_interval: 1,
        output: "elsewhere".into(),
        experiment: Some("b".into()),
        exist_ok: true,
        checkpoint_hist: 9,
        time: Some("1h".parse().expect("a time")),
        val_interval: 5,
        eval_metric: "loss".into(),
        ..old.clone()
    };
    assert!(changed(&old, &aside).is_empty(), "{:?}", changed(&old, &aside));
    // Where a measurement steers, how often is measured counts.
    let steered = |recipe: &Recipe| Recipe { patience: 3, ..recipe.clone() };
    let keys: Vec<String> =
        changed(&steered(&old), &steered(&aside)).into_iter().map(|change| change.key).collect();
    assert_eq!(keys, ["val_interval", "eval_metric"]);

    let new = Recipe { lr: Some(1e-4), mixup: 0.8, clip_grad: Some(1.0), ..old.clone() };
    let changes = changed(&old, &new);
    let text = ResumeError::Changed { run: "runs/a".into(), step: 57, changes }.to_string();
    assert_eq!(
        text,
        "cannot resume runs/a: arguments changed since step 57\n  \
         lr          5e-4 -> 1e-4\n  \
         clip_grad   none -> 1\n  \
         mixup       0 -> 0.8"
    );
    // Every key that is passed over has a reason, and none of the others.
    assert_eq!(vitrum::train::recipe::keys().iter().filter(|key| neutral(key).is_some()).count(), 10);
}

#[test]
fn parts_are_looked_up() {
    let parts = content(1, 2);
    assert_eq!(parts.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["model", "optim", "state"]);
    assert!(matches!(parts.get("state"), Some(Part::Json(_))) && parts.get("other").is_none());
}
