//! What a run tells of itself: tables that survive a stop, event files, plots, pictures, folders.

use std::path::{Path, PathBuf};

use vitrum::data::{DemoSet, RgbImage, demo};
use vitrum::train::log::pictures::{self, Pixels};
use vitrum::train::log::tensorboard::{self, TensorBoard};
use vitrum::train::log::{
    Confusion, Environment, EpochSummary, EvalLine, Event, Finished, History, LogError, Logger, Reached,
    RunFolder, Started, Step, TrainLine, Watch, environment, files, plots, text,
};
use vitrum::train::recipe::Recipe;
use vitrum::train::score::{Meters, Scores, Validation};

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fixtures/golden/log").join(name)
}

fn folder() -> (tempfile::TempDir, RunFolder) {
    let directory = tempfile::tempdir().unwrap();
    let folder = RunFolder::create(directory.path(), "classify", "run", false).unwrap();
    folder.write_args(&Recipe::default()).unwrap();
    (directory, folder)
}

const BATCHES: usize = 20;

fn train_line(update: u64) -> TrainLine {
    let index = update as usize - 1;
    let noise = ((update * 7919 % 101) as f64 / 101.0 - 0.5) * 0.4;
    let loss = 0.3 + 2.0 * (-(update as f64) / 60.0).exp() + noise;
    TrainLine {
        epoch: index / BATCHES,
        update,
        batch: index % BATCHES,
        batches: BATCHES,
        loss,
        loss_avg: loss + 0.01,
        lr: 5e-4 * 0.5 * (1.0 + (update as f64 / 240.0 * std::f64::consts::PI).cos()),
        images_per_second: 400.0 + 30.0 * noise,
        images_per_second_avg: 400.0,
        data_seconds: 0.01,
        data_seconds_avg: 0.01,
        step_seconds: 0.312,
        step_seconds_avg: 0.3,
        grad_norm: Some(1.5),
        memory_mb: Some(512.0),
    }
}

fn summary(epoch: usize, ema: bool) -> EpochSummary {
    let top1 = 90.0 - 60.0 * (-(epoch as f64) / 3.0).exp();
    EpochSummary {
        epoch,
        updates: ((epoch + 1) * BATCHES) as u64,
        train_loss: 0.4 + 1.5 * (-(epoch as f64) / 3.0).exp(),
        validation: validation(
            Some([0.5 + 1.2 * (-(epoch as f64) / 3.0).exp(), top1, 95.0 + top1 / 20.0]),
            ema.then(|| [0.45 + 1.7 * (-(epoch as f64) / 4.0).exp(), top1 + 2.0, 95.5 + top1 / 20.0]),
        ),
        lr: 1e-4,
        seconds: 6.5,
    }
}

/// Loss, top-1 and top-5 of a model and of its average.
fn validation(model: Option<[f64; 3]>, ema: Option<[f64; 3]>) -> Validation {
    let names = ["loss", "top1", "top5"];
    let scores = |values: [f64; 3]| names.into_iter().zip(values).collect::<Scores>();
    Validation { names: names.map(String::from).to_vec(), model: model.map(scores), ema: ema.map(scores) }
}

fn eval_line(epoch: usize, batch: usize) -> EvalLine {
    EvalLine { epoch, update: ((epoch + 1) * BATCHES) as u64, batch, batches: 3, ..EvalLine::default() }
}

fn hear(watch: &mut dyn Watch, event: Event) {
    assert!(watch.event(&event).is_continue());
}

/// What a loop tells from one update to another; an epoch ends with its last update.
fn tell(watch: &mut dyn Watch, updates: std::ops::RangeInclusive<u64>) {
    for update in updates {
        let line = train_line(update);
        let (epoch, batch) = (line.epoch, line.batch);
        hear(watch, Event::Step(Step { epoch, update, batch, batches: BATCHES, loss: line.loss }));
        hear(watch, Event::Train(line));
        if batch + 1 == BATCHES {
            (0..3).for_each(|batch| hear(watch, Event::Eval(eval_line(epoch, batch))));
            hear(watch, Event::Epoch(summary(epoch, true)));
        }
    }
}

fn finished(folder: &RunFolder) -> Finished {
    Finished {
        model: "vit_test".into(),
        params: 5_526_346,
        img_size: [32, 32],
        run: folder.path().into(),
        model_dir: Some(folder.model()),
        eval_metric: "top1".into(),
        best_metric: Some(79.8),
        best_epoch: Some(9),
        best: Some(Scores::from([("loss", 0.5), ("top1", 79.8), ("top5", 97.123456)])),
        last: Some(EpochSummary { epoch: 9, updates: 200, train_loss: 0.5, ..EpochSummary::default() }),
        epochs: 10,
        updates: 200,
        images_per_second: 412.345,
        seconds: 65.0,
        left_out: 0,
        replaced: 0,
        unreadable: 0,
        interrupted: false,
    }
}

/// The lines of `metrics.jsonl` without their times.
fn metrics(folder: &RunFolder) -> Vec<serde_json::Value> {
    let parse = |line: &str| {
        let mut object: serde_json::Value = serde_json::from_str(line).unwrap();
        object.as_object_mut().unwrap().remove("time").expect("a time");
        object
    };
    std::fs::read_to_string(folder.metrics()).unwrap().lines().map(parse).collect()
}

/// The messages with values in all event files, without their times (the first nine bytes).
fn events(folder: &RunFolder) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|path| path.file_name().unwrap().to_string_lossy().starts_with("events.out.tfevents."));
    files.sort();
    let bytes: Vec<Vec<u8>> = files.iter().map(|path| std::fs::read(path).unwrap()).collect();
    let messages = bytes.iter().flat_map(|bytes| tensorboard::records(bytes));
    // A message with a summary: after time and step comes field 5.
    let tells = |message: &&[u8]| message.windows(6).any(|part| part == b"train/" || part == b"/top1\x15");
    messages.filter(tells).map(|message| message[9..].to_vec()).collect()
}

#[test]
fn event_files_are_those_of_tensorboard() {
    let time = 1_700_000_000.25;
    let picture: Vec<u8> = (0..200).collect();
    let messages = [
        tensorboard::version(time),
        tensorboard::scalars(time + 1.25, 12_345_678_901, &[("train/loss", 4.25), ("train/lr", 0.1)]),
        tensorboard::picture(time + 1.75, 7, "samples/x", [300, 200], &picture),
    ];
    let ours: Vec<u8> = messages.iter().flat_map(|message| tensorboard::record(message)).collect();
    let theirs = std::fs::read(golden("events.tfevents")).unwrap();
    assert_eq!(ours, theirs);
    assert_eq!(tensorboard::records(&theirs), messages);
}

#[test]
fn damaged_event_files_are_read_up_to_the_damage() {
    let theirs = std::fs::read(golden("events.tfevents")).unwrap();
    let whole = tensorboard::records(&theirs).len();
    assert_eq!(whole, 3);
    for len in 0..theirs.len() {
        assert!(tensorboard::records(&theirs[..len]).len() < whole, "{len} bytes");
    }
    for at in 0..theirs.len() {
        let mut damaged = theirs.clone();
        damaged[at] ^= 1;
        assert!(tensorboard::records(&damaged).len() < whole, "byte {at}");
    }
}

#[test]
fn numbers_are_written_as_python_writes_them() {
    let numbers: Vec<(f64, String, String)> =
        serde_json::from_slice(&std::fs::read(golden("numbers.json")).unwrap()).unwrap();
    assert!(numbers.len() > 20);
    for (value, three_digits, exponential) in numbers {
        assert_eq!(text::three_digits(value), three_digits, "{value}");
        assert_eq!(text::exponential(value, 3), exponential, "{value}");
    }
    assert_eq!([f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(text::three_digits), ["nan", "inf", "-inf"]);
}

#[test]
fn lines_are_those_of_timm() {
    let line = TrainLine {
        epoch: 3,
        batch: 200,
        batches: 1251,
        loss: 4.2123,
        loss_avg: 4.5512,
        step_seconds: 0.312,
        step_seconds_avg: 0.3,
        images_per_second: 410.251,
        images_per_second_avg: 98.5,
        lr: 4.1e-4,
        data_seconds: 0.01,
        data_seconds_avg: 0.0123,
        ..train_line(1)
    };
    assert_eq!(
        text::train_line(&line),
        "Train: 3 [ 200/1251 ( 16%)]  Loss: 4.21 (4.55)  Time: 0.312s,  410.25/s  (0.300s,   98.50/s)  LR: 4.100e-04  Data: 0.010 (0.012)"
    );
    let line = EvalLine {
        batch: 195,
        batches: 196,
        seconds: 0.71,
        seconds_avg: 0.73,
        scores: Meters::new(
            &Scores::from([("loss", 0.512), ("top1", 88.8889), ("top5", 100.0)]),
            &Scores::from([("loss", 0.498), ("top1", 86.921), ("top5", 100.0)]),
        ),
        ..EvalLine::default()
    };
    let values = "[ 195/195]  Time: 0.710 (0.730)  Loss:   0.512 ( 0.498)  Acc@1:  88.889 ( 86.921)  Acc@5: 100.000 (100.000)";
    assert_eq!(text::eval_line(&line), format!("Test: {values}"));
    assert_eq!(text::eval_line(&EvalLine { ema: true, ..line }), format!("Test (EMA): {values}"));
    assert_eq!(text::best_line(79.8, 297), "*** Best metric: 79.8 (epoch 297)");
    assert_eq!(text::best_line(80.0, 0), "*** Best metric: 80.0 (epoch 0)");
    let saved = Event::Saved { path: "runs/x".into(), best: true };
    assert_eq!(text::lines(&saved), ["saved  runs/x  (best)"]);
    let started = Started { train_images: 3670, img_size: [224, 160], updates_done: 7, ..Started::default() };
    let lines = text::started_lines(&started).join("\n");
    assert!(
        lines.contains("train 3,670 ") && lines.contains("224x160 px") && lines.contains("resumed after 7")
    );
    assert_eq!([65.0, 4025.4, 0.0].map(text::duration), ["1:05", "1:07:05", "0:00"]);
}

#[test]
fn a_resumed_run_has_the_tables_of_an_unbroken_one() {
    let (_keep, unbroken) = folder();
    let mut logger = Logger::start(&unbroken).unwrap();
    tell(&mut logger, 1..=100);
    logger.check().unwrap();

    let (_keep, broken) = folder();
    let mut logger = Logger::start(&broken).unwrap();
    tell(&mut logger, 1..=75);
    logger.check().unwrap();
    drop(logger);
    tear(&broken);
    // The checkpoint lies before the third epoch's end: that epoch is told again.
    let mut logger = Logger::resume(&broken, Reached { updates: 47, epochs: 2 }).unwrap();
    assert_eq!(logger.history().train.len(), 47);
    assert_eq!(logger.history().epochs.len(), 2);
    tell(&mut logger, 48..=100);
    logger.check().unwrap();

    logger.picture("train_batch0", &RgbImage::filled(20, 10, [200, 0, 0]).unwrap()).unwrap();
    keep_events(&broken);
    assert_eq!(metrics(&broken), metrics(&unbroken));
    let read = |folder: &RunFolder| std::fs::read_to_string(folder.summary()).unwrap();
    assert_eq!(read(&broken), read(&unbroken));
    assert_eq!(History::read(&broken).unwrap(), History::read(&unbroken).unwrap());
    assert_eq!(events(&broken), events(&unbroken));
    assert_eq!(events(&unbroken).len(), 105);
    let log = std::fs::read_to_string(broken.train_log()).unwrap();
    assert!(!log.contains("half a li"), "the torn line is cut away");
    let written = std::fs::read_to_string(broken.summary()).unwrap();
    let mut lines = written.lines();
    assert_eq!(
        lines.next(),
        Some("epoch,train_loss,eval_loss,eval_top1,eval_top5,lr,ema_loss,ema_top1,ema_top5")
    );
    assert_eq!(lines.count(), 5);
}

/// For `fixtures/check_events.py`, which reads them with TensorBoard.
fn keep_events(folder: &RunFolder) {
    let to = gallery("resumed");
    let _ = std::fs::remove_dir_all(&to);
    std::fs::create_dir_all(&to).unwrap();
    for entry in
        std::fs::read_dir(folder.path()).unwrap().map(Result::unwrap).filter(|entry| entry.path().is_file())
    {
        std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
    }
}

/// What a kill in the midst of writing leaves.
fn tear(folder: &RunFolder) {
    let append = |path: &Path, bytes: &[u8]| {
        let whole = [&std::fs::read(path).unwrap()[..], bytes].concat();
        std::fs::write(path, whole).unwrap();
    };
    append(&folder.metrics(), b"{\"event\":\"train\",\"epoch\":3,\"upd");
    append(&folder.train_log(), b"half a li");
    append(&folder.summary(), b"99,0.1");
    for entry in std::fs::read_dir(folder.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap().to_string_lossy().starts_with("events") {
            append(&path, &tensorboard::record(b"torn")[..9]);
        }
    }
}

#[test]
fn without_a_moving_average_the_columns_are_timms() {
    let (_keep, folder) = folder();
    let mut logger = Logger::start(&folder).unwrap();
    let unvalidated = EpochSummary { validation: validation(None, None), ..summary(0, false) };
    hear(&mut logger, Event::Epoch(EpochSummary { train_loss: f64::NAN, ..unvalidated }));
    hear(
        &mut logger,
        Event::Epoch(EpochSummary {
            validation: validation(Some([0.5, 80.0, 99.0]), None),
            ..summary(1, false)
        }),
    );
    logger.check().unwrap();
    let table = std::fs::read_to_string(folder.summary()).unwrap();
    let rows: Vec<&str> = table.lines().collect();
    assert_eq!(rows[..2], ["epoch,train_loss,eval_loss,eval_top1,eval_top5,lr", "0,nan,,,,0.0001"]);
    assert_eq!(rows[2].split(',').nth(3), Some("80.0"));
    assert!(History::read(&folder).unwrap().epochs[0].train_loss.is_nan(), "null is NaN again");
}

#[test]
fn a_run_that_begins_in_a_used_folder_begins_its_tables() {
    let (keep, folder) = folder();
    let mut logger = Logger::start(&folder).unwrap();
    logger.picture("train_batch0", &RgbImage::filled(20, 10, [200, 0, 0]).unwrap()).unwrap();
    tell(&mut logger, 1..=20);
    drop(logger);
    let again = RunFolder::create(keep.path(), "classify", "run", true).unwrap();
    assert_eq!(again, folder);
    let mut logger = Logger::start(&again).unwrap();
    tell(&mut logger, 1..=3);
    logger.check().unwrap();
    assert_eq!(metrics(&again).len(), 3);
    assert_eq!(events(&again).len(), 3);
    assert_eq!(std::fs::read_to_string(again.summary()).unwrap().lines().count(), 1);
}

#[test]
fn folders_are_numbered_without_collision() {
    let directory = tempfile::tempdir().unwrap();
    let output = directory.path().join("runs");
    let create = |_| RunFolder::create(&output, "classify", "vit", false).unwrap().path().to_path_buf();
    let mut paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16).map(|i| scope.spawn(move || create(i))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    paths.sort();
    let name = |i: usize| if i == 1 { "vit".into() } else { format!("vit-{i}") };
    let mut wanted: Vec<PathBuf> = (1..=16).map(|i| output.join("classify").join(name(i))).collect();
    wanted.sort();
    assert_eq!(paths, wanted);
    assert_eq!(
        RunFolder::create(&output, "classify", "vit", true).unwrap().path(),
        output.join("classify/vit")
    );
    for bad in ["", ".", "..", "a/b", "/tmp", "a\\b", "a/"] {
        assert!(
            matches!(RunFolder::create(&output, "classify", bad, false), Err(LogError::Name { .. })),
            "{bad:?}"
        );
    }
}

#[test]
fn a_run_is_opened_by_one_process_and_only_if_it_is_one() {
    let (keep, folder) = folder();
    assert_eq!(RunFolder::open(folder.path()).unwrap(), folder);
    for path in [keep.path().join("nowhere"), keep.path().to_path_buf()] {
        let error = RunFolder::open(&path).unwrap_err();
        assert!(matches!(error, LogError::NotARun { .. }) && error.to_string().contains("hint:"), "{error}");
    }
    let logger = Logger::start(&folder).unwrap();
    assert!(matches!(Logger::start(&folder), Err(LogError::Locked { .. })));
    drop(logger);
    Logger::start(&folder).unwrap();
}

#[test]
fn the_end_is_told() {
    let (_keep, folder) = folder();
    let mut logger = Logger::start(&folder).unwrap();
    tell(&mut logger, 1..=20);
    hear(&mut logger, Event::Note("a remark".into()));
    hear(&mut logger, Event::Finished(finished(&folder)));
    logger.check().unwrap();
    let read: Finished = serde_json::from_slice(&std::fs::read(folder.results()).unwrap()).unwrap();
    assert_eq!(read, finished(&folder));
    let log = std::fs::read_to_string(folder.train_log()).unwrap();
    assert!(log.contains("\na remark\ndone after 200 updates in 1:05"), "{log}");
    assert!(log.ends_with("*** Best metric: 79.8 (epoch 9)\n"), "{log}");
    let line: serde_json::Value = serde_json::from_str(&finished(&folder).result_json()).unwrap();
    assert_eq!((&line["top1_err"], &line["top5"]), (&20.2.into(), &97.1235.into()));
    assert_eq!((&line["param_count"], &line["img_size"]), (&5.53.into(), &32.into()));
    let temporary = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().file_name());
    assert!(!temporary.into_iter().any(|name| name.to_string_lossy().ends_with(".tmp")));
}

#[test]
fn the_environment_of_every_start_is_kept() {
    let (_keep, folder) = folder();
    let environment = Environment::gather("cpu", "sha 3f9c1a", vec!["vitrum".into(), "train".into()]);
    environment.write(&folder, false).unwrap();
    environment.write(&folder, true).unwrap();
    environment.write(&folder, true).unwrap();
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.env()).unwrap()).unwrap();
    assert_eq!(written["resumed"].as_array().unwrap().len(), 2);
    assert_eq!((&written["dataset"], &written["command"][1]), (&"sha 3f9c1a".into(), &"train".into()));
    assert!(written["started"].as_str().unwrap().ends_with('Z'));
    assert!(written["threads"].as_u64().unwrap() >= 1);
}

#[test]
fn the_version_of_burn_is_the_one_pinned() {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../Cargo.toml");
    // A packaged crate lies alone.
    let Ok(text) = std::fs::read_to_string(manifest) else { return };
    assert!(text.contains(&format!("burn = {{ version = \"={}\"", environment::BURN_VERSION)));
}

#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_is_told_and_nothing_torn_is_left() {
    let (_keep, folder) = folder();
    std::os::unix::fs::symlink("/dev/full", folder.train_log()).unwrap();
    let mut logger = Logger::start(&folder).unwrap();
    tell(&mut logger, 1..=1);
    let error = logger.check().unwrap_err();
    assert!(matches!(&error, LogError::Io { path, .. } if *path == folder.train_log()), "{error}");
    assert!(error.to_string().contains("No space left"), "{error}");
    logger.check().unwrap();
}

#[test]
fn lines_without_end_are_cut_away() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.log");
    files::mend_lines(&path).unwrap();
    for (before, after) in [("", ""), ("a", ""), ("a\n", "a\n"), ("a\nb", "a\n"), ("\n\nb", "\n\n")] {
        std::fs::write(&path, before).unwrap();
        files::mend_lines(&path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), after);
    }
}

/// Where pictures stay to be looked at.
fn gallery(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("train_log");
    std::fs::create_dir_all(&folder).unwrap();
    folder.join(name)
}

fn save(image: &RgbImage, name: &str) {
    let kind = image::ExtendedColorType::Rgb8;
    image::save_buffer(gallery(name), image.data(), image.width(), image.height(), kind).unwrap();
}

/// Share of pixels that are not white.
fn inked(image: &RgbImage) -> f64 {
    let ink = image.data().chunks(3).filter(|pixel| pixel.iter().any(|level| *level < 250)).count();
    ink as f64 / (image.data().len() / 3) as f64
}

fn has_color(image: &RgbImage, [r, g, b]: [u8; 3]) -> bool {
    image.data().chunks(3).any(|p| p[0].abs_diff(r) < 12 && p[1].abs_diff(g) < 12 && p[2].abs_diff(b) < 12)
}

fn history(updates: u64, epochs: usize, ema: bool) -> History {
    History {
        train: (1..=updates).map(train_line).collect(),
        epochs: (0..epochs).map(|epoch| summary(epoch, ema)).collect(),
    }
}

const BLUE: [u8; 3] = [0x2f, 0x6d, 0xb5];
const ORANGE: [u8; 3] = [0xe0, 0x7b, 0x2a];
const GREEN: [u8; 3] = [0x2c, 0x94, 0x5e];

#[test]
fn plots_show_what_was_recorded() {
    let (_keep, folder) = folder();
    let history = history(240, 12, true);
    plots::write(&folder, &history).unwrap();
    for (name, colors) in [
        ("loss", vec![BLUE, ORANGE, GREEN]),
        ("accuracy", vec![ORANGE, GREEN]),
        ("lr", vec![]),
        ("throughput", vec![GREEN]),
    ] {
        let png = std::fs::read(folder.plots().join(format!("{name}.png"))).unwrap();
        let image = image::load_from_memory(&png).unwrap().to_rgb8();
        assert_eq!(image.dimensions(), plots::SIZE, "{name}");
        let image = RgbImage::new(image.width(), image.height(), image.into_raw()).unwrap();
        assert!((0.01..0.3).contains(&inked(&image)), "{name}: {}", inked(&image));
        colors.iter().for_each(|color| assert!(has_color(&image, *color), "{name}: {color:?}"));
        save(&image, &format!("{name}.png"));
        let svg = std::fs::read_to_string(folder.plots().join(format!("{name}.svg"))).unwrap();
        assert!(svg.starts_with("<svg") && svg.trim_end().ends_with("</svg>"), "{name}");
    }
    let sheet = image::open(folder.path().join("results.png")).unwrap();
    assert_eq!((sheet.width(), sheet.height()), (1800, 1200));
    sheet.save(gallery("results.png")).unwrap();
}

#[test]
fn plots_of_little_or_nothing_are_drawn() {
    let mut odd = history(3, 0, false);
    odd.train[0].loss = f64::NAN;
    odd.train[1].loss = f64::INFINITY;
    odd.train[2].loss = 1e300;
    odd.train.iter_mut().for_each(|line| line.lr = 0.0);
    let mut huge = history(3, 1, false);
    huge.train[1].loss = 3e14;
    huge.train[1].images_per_second = 1e-300;
    let cases = [
        ("empty", history(0, 0, false)),
        ("one", history(1, 1, false)),
        ("odd", odd),
        ("huge", huge),
        ("many", history(20_000, 1000, false)),
    ];
    for (case, history) in cases {
        for (name, plot) in plots::all(&history) {
            let image = plot.pixels().unwrap();
            assert!(inked(&image) > 0.003, "{case} {name}");
            assert!(plot.svg().unwrap().len() < 200_000, "{case} {name}");
            save(&image, &format!("{case}_{name}.png"));
        }
    }
}

fn confusion(classes: usize) -> Confusion {
    let mut confusion = Confusion::new(classes);
    for i in 0..classes * 40 {
        let label = i % classes;
        let pred = if i % 7 < 4 { label } else { (label + 1 + i % 3) % classes };
        confusion.add(label, pred);
    }
    confusion
}

#[test]
fn confusion_is_drawn_and_tabled() {
    let (_keep, folder) = folder();
    let mut three = Confusion::new(3);
    [(0, 0), (0, 1), (1, 1), (1, 1)].iter().for_each(|(label, pred)| three.add(*label, *pred));
    three.write(&folder, &["cat".into(), "dog, small".into()]).unwrap();
    let table = std::fs::read_to_string(folder.plots().join("confusion_matrix.csv")).unwrap();
    assert_eq!(table, "label,cat,\"dog, small\",2\ncat,1,1,0\n\"dog, small\",0,2,0\n2,0,0,0\n");
    let svg = std::fs::read_to_string(folder.plots().join("confusion_matrix.svg")).unwrap();
    assert!(svg.contains("dog, small") && svg.contains("75.0 % right"));
    let names: Vec<String> = (0..50).map(|i| format!("class <{i}> & a long name for it")).collect();
    let shapes: Vec<String> = demo::CLASSES.map(String::from).to_vec();
    for (classes, names) in
        [(0, &[][..]), (2, &names), (10, &shapes), (50, &names), (51, &names), (1200, &[])]
    {
        let image = confusion(classes).pixels(names).unwrap();
        assert!(inked(&image) > 0.01, "{classes}");
        assert!(image.width() >= 500 && image.height() >= 300 && image.width() < 1300, "{classes}");
        save(&image, &format!("confusion_{classes}.png"));
    }
    let listed = String::from_utf8(confusion(1200).csv(&[]).unwrap()).unwrap();
    assert!(listed.starts_with("label,pred,count\n0,0,"), "{}", &listed[..40]);
}

const MEAN: [f32; 3] = [0.485, 0.456, 0.406];
const STD: [f32; 3] = [0.229, 0.224, 0.225];

/// Drawn shapes as a model gets them, `[B, 3, side, side]`.
fn batch(count: usize, side: u32) -> Vec<f32> {
    let set = DemoSet::new(side, count, 1);
    let plane = |image: RgbImage| {
        let level =
            move |c: usize, at: usize| (f32::from(image.data()[3 * at + c]) / 255.0 - MEAN[c]) / STD[c];
        (0..3 * (side * side) as usize)
            .map(move |i| level(i / (side * side) as usize, i % (side * side) as usize))
    };
    (0..count).flat_map(|index| plane(set.image(index)).collect::<Vec<_>>()).collect()
}

#[test]
fn sheets_show_the_pixels_the_model_got() {
    let names: Vec<String> = demo::CLASSES.map(String::from).to_vec();
    let values = batch(80, 32);
    let pixels = Pixels { values: &values, shape: [80, 3, 32, 32], mean: &MEAN, std: &STD };
    let targets: Vec<f32> = (0..80)
        .flat_map(|i| {
            let share = |k: usize| {
                if k == i % 10 {
                    0.6
                } else if k == (i + 3) % 10 {
                    0.3
                } else {
                    0.0125
                }
            };
            let plain = |k: usize| if k == i % 10 { 0.91 } else { 0.01 };
            (0..10).map(|k| if i % 2 == 0 { share(k) } else { plain(k) }).collect::<Vec<f32>>()
        })
        .collect();
    let captions = pictures::target_captions(&targets, &names);
    assert_eq!(captions[0].lines, ["60 % disc", "30 % triangle"]);
    assert_eq!(captions[1].lines, ["ring"]);
    let sheet = pictures::mosaic(&pixels, &captions).unwrap();
    save(&sheet, "train_batch0.png");
    // Eight columns of three-fold pixels; a tile begins after gap and frame.
    let image = DemoSet::new(32, 80, 1).image(9);
    let (left, top) = (8 + 3 + (96 + 8 + 6), 8 + 3 + (96 + 8 + 6 + 2 * 16 + 5));
    for (x, y) in [(0, 0), (17, 5), (31, 31)] {
        for (dx, dy) in [(0, 0), (2, 2)] {
            assert_eq!(sheet.pixel(left + 3 * x + dx, top + 3 * y + dy), image.pixel(x, y), "{x} {y}");
        }
    }

    let logits: Vec<Vec<f64>> = (0..12)
        .map(|i| {
            (0..10)
                .map(|k| if k == i % 10 { 2.0 } else { 0.0 } + if i % 4 == 0 && k == 7 { 4.0 } else { 0.0 })
                .collect()
        })
        .collect();
    let labels: Vec<usize> = (0..12).map(|i| i % 10).collect();
    let captions = pictures::answer_captions(&logits, &labels, &names);
    assert!(captions[0].wrong && captions[0].lines[1] == "is disc" && !captions[1].wrong);
    let values = batch(12, 128);
    let pixels = Pixels { values: &values, shape: [12, 3, 128, 128], mean: &MEAN, std: &STD };
    let sheet = pictures::mosaic(&pixels, &captions).unwrap();
    save(&sheet, "val_pred0.png");
    assert_eq!(sheet.pixel(8, 8), Some([0xc9, 0x2a, 0x2a]), "a wrong one is framed");
    assert_eq!(sheet.pixel(8 + 128 + 8 + 6, 8), Some([255; 3]), "a right one is not");
}

#[test]
fn odd_batches_are_drawn_or_refused() {
    let name = ["a name so long that no tile is wide enough for it\n".to_string()];
    for shape in [[1, 1, 5, 7], [3, 4, 500, 20], [2, 2, 1, 1], [65, 3, 8, 8]] {
        let values = vec![f32::NAN; shape.iter().product()];
        let pixels = Pixels { values: &values, shape, mean: &[0.5], std: &[] };
        let sheet = pictures::mosaic(&pixels, &pictures::label_captions(&[0, 1], &name)).unwrap();
        assert!(inked(&sheet) > 0.01, "{shape:?}");
    }
    for (shape, len) in [([1, 3, 2, 2], 11), ([0, 3, 2, 2], 0), ([1, 0, 2, 2], 0), ([usize::MAX, 2, 2, 2], 8)]
    {
        let values = vec![0.0; len];
        assert!(pictures::mosaic(&Pixels { values: &values, shape, mean: &MEAN, std: &STD }, &[]).is_err());
    }
}

#[test]
fn pictures_go_to_samples_and_tensorboard() {
    let (_keep, folder) = folder();
    let mut logger = Logger::start(&folder).unwrap();
    logger.picture("train_batch0", &RgbImage::filled(20, 10, [200, 0, 0]).unwrap()).unwrap();
    let image = image::open(folder.samples().join("train_batch0.jpg")).unwrap();
    assert_eq!((image.width(), image.height()), (20, 10));
    drop(logger);
    let board = TensorBoard::open(&folder, 1).unwrap();
    let file = std::fs::read_dir(folder.path()).unwrap().map(|e| e.unwrap().path());
    let older =
        file.into_iter().find(|p| p.to_string_lossy().contains("tfevents") && p != board.path()).unwrap();
    let bytes = std::fs::read(older).unwrap();
    assert!(tensorboard::records(&bytes)[1].windows(20).any(|part| part == b"samples/train_batch0"));
}
