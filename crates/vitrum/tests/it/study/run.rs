//! Whole studies: what stops goes on as if it never had, what is finished stays, what changed is refused.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::Path;

use burn::tensor::Device;
use vitrum::study::{
    Costs, Data, Ended, Listener, Plan, PlannedRun, Report, Runner, Study, StudyError, StudyEvent, results,
};
use vitrum::train::log::{Event, Watch};
use vitrum::train::resume::FileSum;
use vitrum::train::{NoRequests, Requests};

use super::{CHAIN, text};

/// Twelve training and four validation images of each of three classes.
fn images(folder: &Path) -> String {
    let data = folder.join("images");
    for (part, count) in [("train", 12_u32), ("val", 4)] {
        for class in 0..3_u32 {
            let place = data.join(part).join(format!("class{class}"));
            std::fs::create_dir_all(&place).expect("a folder");
            for number in 0..count {
                let pixel = |at: u32| (at * (class + 1) * 23 + number * 7) as u8;
                let pixels: Vec<u8> = (0..16 * 16 * 3).map(pixel).collect();
                let kind = image::ExtendedColorType::Rgb8;
                image::save_buffer(place.join(format!("{number}.png")), &pixels, 16, 16, kind)
                    .expect("a picture");
            }
        }
    }
    data.display().to_string()
}

/// A study of these images in batches of 16, with a value replaced.
fn changed(data: &str, runs: &str, (key, value): (&str, &str)) -> Plan {
    let mut study = Study::parse(&text("", runs), "tiny.toml").expect("a study");
    for (key, value) in [("data", data), ("batch_size", "16"), (key, value)] {
        study.replace(key, value).expect("a key");
    }
    Plan::of(study).expect("a plan")
}

fn plan(data: &str, runs: &str) -> Plan {
    changed(data, runs, ("workers", "1"))
}

/// Asks to stop when it was asked so many times.
struct StopAfter(Cell<u64>);

impl Requests for StopAfter {
    fn stop(&self) -> bool {
        let left = self.0.get();
        self.0.set(left.saturating_sub(1));
        left == 0
    }
}

/// Keeps what happened, in words.
#[derive(Default)]
struct Heard(Vec<String>);

impl Listener for Heard {
    fn event(&mut self, event: &StudyEvent<'_>) {
        self.0.push(match event {
            StudyEvent::Begins { run, again, .. } if *again => format!("again {}", run.id),
            StudyEvent::Begins { run, .. } => format!("begins {}", run.id),
            StudyEvent::Skipped(run) => format!("skipped {}", run.id),
            StudyEvent::Finished(run, _) => format!("finished {}", run.id),
            StudyEvent::Failed(run, error) => format!("failed {}: {error}", run.id),
            StudyEvent::Waits(run, parent) => format!("{} waits for {parent}", run.id),
            other => format!("{other:?}"),
        });
    }

    fn watch(&mut self, _: &PlannedRun) -> Box<dyn Watch> {
        Box::new(|_: &Event| ControlFlow::Continue(()))
    }
}

fn run(
    plan: &Plan,
    patterns: &[&str],
    output: &Path,
    requests: &dyn Requests,
) -> Result<(Ended, Vec<String>), StudyError> {
    let mut data = Data::default();
    let costs = Costs::count(plan, &mut data)?;
    let patterns: Vec<String> = patterns.iter().map(ToString::to_string).collect();
    let chosen: BTreeSet<usize> = plan.chosen(&patterns)?;
    let runner = Runner {
        plan,
        chosen: &chosen,
        output: output.to_path_buf(),
        costs: &costs,
        device: Device::flex(),
        offline: true,
        command: vec!["test".into()],
        requests,
    };
    let mut heard = Heard::default();
    let ended = runner.run(&mut data, &mut heard)?;
    Ok((ended, heard.0))
}

/// Checksums of the models and the summaries of all runs.
fn files(output: &Path) -> BTreeMap<String, String> {
    let mut sums = BTreeMap::new();
    for entry in std::fs::read_dir(output.join("runs/classify")).expect("runs") {
        let folder = entry.expect("a run").path();
        for name in ["model/model.safetensors", "model/config.json"] {
            let bytes = std::fs::read(folder.join(name)).expect(name);
            let run = folder.file_name().expect("a name").to_string_lossy().into_owned();
            sums.insert(format!("{run}/{name}"), FileSum::of(&bytes).sha256);
        }
    }
    sums
}

#[test]
fn a_study_that_stops_anywhere_ends_in_the_same_bytes() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = plan(&images(folder.path()), CHAIN);
    let chosen = ["then-start-all"];
    let whole = folder.path().join("whole");
    let (ended, heard) = run(&plan, &chosen, &whole, &NoRequests).expect("a study");
    assert_eq!(ended, Ended::Done);
    let runs = ["start-s1", "then-start-all-s1"];
    assert_eq!(heard, runs.map(|id| [format!("begins {id}"), format!("finished {id}")]).concat());
    let expected = files(&whole);
    assert_eq!(expected.len(), 4);

    let broken = folder.path().join("broken");
    let mut stopped = Vec::new();
    // After the first update, in the middle, and in the second run.
    for asked in [1, 3, 6] {
        let (ended, _) = run(&plan, &chosen, &broken, &StopAfter(Cell::new(asked))).expect("a study");
        match ended {
            Ended::Stopped(Some((id, checkpoint))) => {
                assert!(checkpoint.is_dir() && checkpoint.display().to_string().contains(&id));
                stopped.push(id);
            }
            other => panic!("{asked}: {other:?}"),
        }
    }
    assert_eq!(stopped, ["start-s1", "start-s1", "then-start-all-s1"]);
    let (ended, heard) = run(&plan, &chosen, &broken, &NoRequests).expect("a study");
    assert_eq!(ended, Ended::Done);
    assert_eq!(heard, ["skipped start-s1", "again then-start-all-s1", "finished then-start-all-s1"]);
    assert_eq!(files(&broken), expected);
}

#[test]
fn what_is_finished_is_skipped_wherever_the_folder_is() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = plan(&images(folder.path()), CHAIN);
    let (first, second) = (folder.path().join("first"), folder.path().join("second"));
    run(&plan, &["start"], &first, &NoRequests).expect("a study");
    let before = files(&first);
    let (ended, heard) = run(&plan, &["start"], &first, &NoRequests).expect("a study");
    assert_eq!((ended, heard), (Ended::Done, vec!["skipped start-s1".to_string()]));
    assert_eq!(files(&first), before);
    std::fs::rename(&first, &second).expect("another place");
    let (_, heard) = run(&plan, &["then-start-half"], &second, &NoRequests).expect("a study");
    assert_eq!(heard, ["skipped start-s1", "begins then-start-half-s1", "finished then-start-half-s1"]);
    // Results of a part make a report that says what is missing.
    let report = Report::of(&plan, &results(&plan, &second).expect("results"));
    assert_eq!((report.runs.len(), report.missing.len()), (2, 3));
    report.write(&second).expect("a report");
    for name in
        ["report.md", "report.html", "results.csv", "results.json", "plots/then.svg", "plots/then.png"]
    {
        assert!(second.join(name).is_file(), "{name}");
    }
    let record = std::fs::read_to_string(second.join("runs/classify/start-s1/study.json")).expect("a record");
    let record: serde_json::Value = serde_json::from_str(&record).expect("JSON");
    assert!(record["seconds"].as_f64().is_some_and(|seconds| seconds > 0.0), "{record}");
}

#[test]
fn other_values_and_other_images_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = images(folder.path());
    let whole = plan(&data, CHAIN);
    run(&whole, &["start"], folder.path(), &NoRequests).expect("a study");
    let before = files(folder.path());
    let other = |key: &str, value: &str| {
        let plan = changed(&data, CHAIN, (key, value));
        let found = results(&plan, folder.path()).map(|found| found.len()).map_err(|error| error.to_string());
        (run(&plan, &["start"], folder.path(), &NoRequests).map(|(ended, _)| ended), found)
    };
    let (ended, found) = other("lr", "1e-4");
    let told = ended.expect_err("another rate").to_string();
    assert!(told.ends_with("run start-s1 was finished with other values\n  lr   0.002 -> 1e-4"), "{told}");
    assert_eq!(found, Err(told), "nor is it reported");
    // What changes no number is not asked about.
    let (ended, found) = other("workers", "2");
    assert_eq!((ended.expect("the same run"), found), (Ended::Done, Ok(1)));

    let record = folder.path().join("runs/classify/start-s1/study.json");
    let text = std::fs::read_to_string(&record).expect("a record");
    let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    for (at, part) in [(0, "training"), (1, "validation")] {
        let mut other = value.clone();
        other["data"][at] = "0123".into();
        std::fs::write(&record, other.to_string()).expect("a record");
        let told = run(&whole, &["start"], folder.path(), &NoRequests).expect_err("other images").to_string();
        assert!(told.ends_with(&format!("run start-s1 was finished with other {part} images")), "{told}");
    }
    std::fs::write(&record, "{}").expect("a record");
    let told = run(&whole, &["start"], folder.path(), &NoRequests).expect_err("no record").to_string();
    assert!(told.contains("study.json: not the record of a run"), "{told}");
    std::fs::remove_file(&record).expect("a file");
    let told = run(&whole, &["start"], folder.path(), &NoRequests).expect_err("another run").to_string();
    assert!(told.contains("a folder of another program or run"), "{told}");
    assert_eq!(files(folder.path()), before, "nothing was touched");
}

#[test]
fn a_run_that_fails_stops_only_what_needs_it() {
    let runs = r#"
        [[runs]]
        name = "bad"
        keys = { pretrained = "no-such-folder" }
        [[runs]]
        name = "child"
        keys = { pretrained = "{run:bad}" }
        [[runs]]
        name = "good"
        keys = { max_steps = 1, warmup_steps = 0 }
    "#;
    let folder = tempfile::tempdir().expect("a folder");
    let plan = plan(&images(folder.path()), runs);
    let (ended, heard) = run(&plan, &[], folder.path(), &NoRequests).expect("a study");
    assert_eq!(ended, Ended::Failed(vec!["bad-s1".into(), "child-s1".into()]));
    assert!(heard[1].starts_with("failed bad-s1: unknown model 'no-such-folder'"), "{heard:?}");
    assert_eq!(heard[2..], ["child-s1 waits for bad-s1", "begins good-s1", "finished good-s1"]);
}

#[test]
fn a_stop_before_the_first_run_begins_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let plan = plan(&images(folder.path()), CHAIN);
    let (ended, heard) = run(&plan, &[], folder.path(), &StopAfter(Cell::new(0))).expect("a study");
    assert_eq!((ended, heard.len()), (Ended::Stopped(None), 0));
    assert_eq!(std::fs::read_dir(folder.path()).expect("a folder").count(), 1, "only the images");
}
