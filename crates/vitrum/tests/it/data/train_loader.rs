//! Training batches: the same for any number of workers, from any place, with and without a cache.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng;
use vitrum::data::loader::LoaderError;
use vitrum::data::random::{DataRng, order_rng, sample_rng};
use vitrum::data::train_loader::{TrainBatch, TrainLoader, TrainLoaderOptions, Transform};
use vitrum::data::train_set::{Cache, Subset, TrainSet, TrainSetOptions};
use vitrum::data::{MaxBad, RgbImage};

use super::decode::real_data;
use super::train_set::{folder_and_archives, open};
use super::{golden, png, write};

/// Two pixels of the picture, and two random numbers: `[1, 2, 2]`.
fn sketch(image: &RgbImage, rng: &mut DataRng) -> Result<Vec<f32>, String> {
    let data = image.data();
    Ok(vec![f32::from(data[0]), f32::from(data[data.len() - 1]), rng.random(), rng.random()])
}

const SHAPE: [usize; 3] = [1, 2, 2];

fn subset(path: &Path, cache: Cache, shuffle_buffer: usize) -> Subset {
    let options = TrainSetOptions { shuffle_buffer, ..Default::default() };
    let set = TrainSet::open(path, &options).unwrap();
    let count = set.len();
    let set = Arc::new(set.with_cache(cache, count).unwrap());
    // Every fifth picture belongs to somebody else.
    Subset::new(set, (0..count as u32).filter(|index| index % 5 != 4).collect())
}

fn loader(subset: &Subset, change: impl Fn(&mut TrainLoaderOptions)) -> TrainLoader {
    let mut options =
        TrainLoaderOptions { batch_size: 4, workers: 2, drop_last: false, ..Default::default() };
    change(&mut options);
    TrainLoader::new(subset.clone(), Arc::new(sketch), SHAPE, options).unwrap_or_else(|e| panic!("{e}"))
}

fn batches(loader: &TrainLoader, epoch: u64, start: usize) -> Vec<TrainBatch> {
    loader.epoch(epoch, start).map(|batch| batch.unwrap_or_else(|e| panic!("{e}"))).collect()
}

fn indexes(batches: &[TrainBatch]) -> Vec<u32> {
    batches.iter().flat_map(|batch| batch.indexes.clone()).collect()
}

#[test]
fn workers_prefetch_cache_and_place_change_nothing() {
    let root = folder_and_archives(&["ant", "bee", "cat"], 11);
    for (name, buffer) in [("data", 1), ("data.tar", 1), ("data.tar.gz", 1), ("data.tar.gz", 7)] {
        for repeats in [0, 3] {
            let plain = subset(&root.path().join(name), Cache::None, buffer);
            let set = |workers, prefetch| {
                move |o: &mut TrainLoaderOptions| {
                    (o.workers, o.prefetch, o.repeats) = (workers, prefetch, repeats)
                }
            };
            let one = loader(&plain, set(1, 1));
            let expected = [batches(&one, 0, 0), batches(&one, 1, 0)];
            assert_eq!(expected[0].len(), 7);
            assert_eq!(expected[0][6].shape, [3, 1, 2, 2]);
            assert_ne!(expected[0], expected[1], "epochs differ");
            for (workers, prefetch) in [(2, 1), (4, 3), (7, 2), (7, 100)] {
                for cache in [Cache::None, Cache::Ram] {
                    let subset = subset(&root.path().join(name), cache, buffer);
                    let loader = loader(&subset, set(workers, prefetch));
                    for epoch in [0, 1, 0] {
                        let at =
                            format!("{name}, {buffer}, {repeats}: {workers} workers, {cache:?}, {epoch}");
                        assert_eq!(batches(&loader, epoch, 0), expected[epoch as usize], "{at}");
                    }
                }
            }
            for start in 0..=8 {
                let rest = &expected[1][start.min(7)..];
                assert_eq!(batches(&loader(&plain, set(3, 1)), 1, start), rest, "{name} from {start}");
            }
        }
    }
}

#[test]
fn a_sample_is_a_function_of_seed_epoch_index_and_repeat() {
    let root = folder_and_archives(&["ant", "bee"], 10);
    let subset = subset(&root.path().join("data"), Cache::None, 1);
    let loader = loader(&subset, |o| (o.seed, o.repeats) = (7, 2));
    let all = batches(&loader, 3, 0);
    let mut place = 0;
    for batch in &all {
        for (at, &index) in batch.indexes.iter().enumerate() {
            let image = subset.set().image(index).unwrap();
            let expected = sketch(&image, &mut sample_rng(7, 3, index.into(), place % 2)).unwrap();
            assert_eq!(batch.values[4 * at..][..4], expected, "picture {index}");
            assert_eq!(batch.labels()[at], subset.set().label(index));
            place += 1;
        }
    }
    assert_eq!(place, 16);
}

#[test]
fn every_picture_once_in_an_order_of_seed_and_epoch() {
    let root = folder_and_archives(&["ant", "bee"], 30);
    let folder = subset(&root.path().join("data"), Cache::None, 1);
    let archive = subset(&root.path().join("data.tar"), Cache::None, 1);
    let order = |subset: &Subset, seed: u64, epoch: u64| {
        indexes(&batches(&loader(subset, |o| o.seed = seed), epoch, 0))
    };
    let first = order(&folder, 1, 0);
    let mut sorted = first.clone();
    sorted.sort_unstable();
    assert_eq!(sorted, folder.indexes());
    assert_ne!(first, sorted);
    assert_eq!(order(&archive, 1, 0), first, "a plain archive is shuffled as a folder is");
    assert_ne!(order(&folder, 2, 0), first);
    assert_ne!(order(&folder, 1, 1), first);

    for buffer in [1, 5, 48, 1000] {
        let stream = subset(&root.path().join("data.tar.gz"), Cache::None, buffer);
        let found = order(&stream, 1, 0);
        assert_eq!(order(&stream, 1, 0), found);
        let mut sorted = found.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, stream.indexes(), "each picture exactly once");
        // A picture comes at most a buffer's length before its turn.
        let turn = |index: &u32| stream.indexes().binary_search(index).unwrap();
        assert!(found.iter().enumerate().all(|(place, index)| turn(index) < place + buffer));
        assert_eq!(found == sorted, buffer == 1);
    }
}

/// Fisher and Yates from the end, as documented: the golden order of a seed must not change between versions.
#[test]
fn the_order_is_fisher_and_yates_with_the_orders_own_stream() {
    use rand::RngCore;
    let root = folder_and_archives(&["ant", "bee"], 10);
    let subset = subset(&root.path().join("data"), Cache::None, 1);
    let mut expected = subset.indexes().to_vec();
    let mut rng = order_rng(5, 9);
    for last in (1..expected.len()).rev() {
        // Sixteen numbers never come near the top of 64 bits, where one would be drawn again.
        expected.swap(last, (rng.next_u64() % (last as u64 + 1)) as usize);
    }
    assert_eq!(indexes(&batches(&loader(&subset, |o| o.seed = 5), 9, 0)), expected);
}

#[test]
fn repeated_augmentation_is_timms() {
    let golden: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(golden("sampler.json")).unwrap()).unwrap();
    let root = tempfile::tempdir().unwrap();
    let mut table = String::from("file,class_index\n");
    for at in 0..600 {
        write(root.path(), &format!("{at}.png"), &png(at));
        table += &format!("{at}.png,{}\n", at % 2);
    }
    let set = Arc::new(open(&write(root.path(), "table.csv", table.as_bytes())));
    let set = Arc::new(Arc::into_inner(set).unwrap().with_cache(Cache::Ram, 600).unwrap());
    for case in golden["cases"].as_array().unwrap() {
        let (count, repeats) = (case["count"].as_u64().unwrap(), case["repeats"].as_u64().unwrap() as usize);
        let subset = Subset::new(Arc::clone(&set), (0..count as u32).collect());
        let order = |repeats| {
            let loader = loader(&subset, |o| (o.batch_size, o.repeats) = (32, repeats));
            let batches = batches(&loader, 2, 0);
            assert_eq!(loader.samples_per_epoch(), indexes(&batches).len());
            assert_eq!(loader.batches_per_epoch(), batches.len());
            indexes(&batches)
        };
        let once = order(0);
        let places = case["places"].as_array().unwrap();
        let expected: Vec<u32> = places.iter().map(|place| once[place.as_u64().unwrap() as usize]).collect();
        assert_eq!(order(repeats), expected, "{count} pictures, {repeats} times");
    }
}

#[test]
fn a_smaller_last_batch_can_be_left_out() {
    let root = folder_and_archives(&["ant", "bee"], 10);
    let subset = subset(&root.path().join("data"), Cache::None, 1);
    let whole = loader(&subset, |o| o.batch_size = 5);
    let dropped = loader(&subset, |o| (o.batch_size, o.drop_last) = (5, true));
    assert_eq!((whole.batches_per_epoch(), dropped.batches_per_epoch()), (4, 3));
    assert_eq!((whole.samples_per_epoch(), dropped.samples_per_epoch()), (16, 15));
    assert_eq!(batches(&dropped, 0, 0), batches(&whole, 0, 0)[..3]);
    let mut epoch = whole.epoch(0, 1);
    assert_eq!(epoch.remaining(), 3);
    epoch.next();
    assert_eq!(epoch.remaining(), 2);
}

#[test]
fn a_few_batches_over_and_over() {
    let root = folder_and_archives(&["ant", "bee"], 10);
    let subset = subset(&root.path().join("data"), Cache::None, 1);
    let few = loader(&subset, |o| o.overfit_batches = 2);
    assert_eq!(few.batches_per_epoch(), 2);
    let all = batches(&loader(&subset, |_| {}), 0, 0);
    let [first, second] = [batches(&few, 0, 0), batches(&few, 1, 0)];
    assert_eq!(first, all[..2]);
    assert_eq!(indexes(&second), indexes(&first));
    assert_ne!(second, first, "augmentation goes on");
    assert_eq!(loader(&subset, |o| o.overfit_batches = 100).batches_per_epoch(), 4);
}

fn with_bad_files() -> tempfile::TempDir {
    let root = folder_and_archives(&["ant", "bee"], 10);
    // Pictures 2 and 3 of 20, side by side, and the last, whose substitute is the first.
    for (name, content) in [("ant/002", &png(2)[..60]), ("ant/003", b""), ("bee/009", b"GIF89a")] {
        write(root.path(), &format!("data/{name}.png"), content);
    }
    root
}

#[test]
fn bad_pictures_have_substitutes() {
    let root = with_bad_files();
    let set = Arc::new(open(&root.path().join("data")));
    let subset = Subset::all(Arc::clone(&set));
    let run = |workers| {
        let loader = loader(&subset, |o| {
            (o.workers, o.max_bad, o.batch_size, o.seed) = (workers, MaxBad::Count(3), 20, 1)
        });
        let epochs = [batches(&loader, 0, 0), batches(&loader, 1, 0)];
        (epochs, loader.bad())
    };
    let (expected, bad) = run(1);
    let names: Vec<&str> = bad.iter().map(|bad| bad.name.as_str()).collect();
    assert_eq!(names, ["ant/002.png", "ant/003.png", "bee/009.png"]);
    assert!(bad[0].reason.contains("ant/002.png"), "{}", bad[0].reason);
    for batch in expected.iter().flatten() {
        assert_eq!(batch.indexes.len(), 20);
        let mut sorted = batch.indexes.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, [0, 0, 1, 4, 4, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]);
        assert!(batch.indexes.iter().zip(batch.labels()).all(|(&i, label)| set.label(i) == label));
        // A substitute is augmented in its own way.
        let of_four: Vec<&[f32]> = (0..20)
            .filter(|&at| batch.indexes[at] == 4)
            .map(|at| &batch.values[4 * at + 2..4 * at + 4])
            .collect();
        assert!(of_four[0] != of_four[1] && of_four[1] != of_four[2] && of_four[0] != of_four[2]);
    }
    for workers in [2, 4, 7] {
        assert_eq!(run(workers), (expected.clone(), bad.clone()), "{workers} workers");
    }
}

#[test]
fn too_many_bad_pictures_end_the_epoch() {
    let root = with_bad_files();
    let subset = Subset::all(Arc::new(open(&root.path().join("data"))));
    for max_bad in [MaxBad::Count(2), MaxBad::Fraction(0.14), MaxBad::Count(0)] {
        let loader = loader(&subset, |o| o.max_bad = max_bad);
        let results: Vec<_> = loader.epoch(0, 0).collect();
        let Some(Err(LoaderError::TooManyBad { bad, seen: 20 })) = results.last() else {
            panic!("no error: {} batches", results.len())
        };
        assert!(bad.iter().all(|bad| bad.name.ends_with(".png")));
        assert!(results[..results.len() - 1].iter().all(Result::is_ok), "nothing after an error");
    }
    assert_eq!(batches(&loader(&subset, |o| o.max_bad = MaxBad::Fraction(0.15)), 0, 0).len(), 5);

    let none = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "b/1.png"] {
        write(none.path(), name, b"not a picture");
    }
    let subset = Subset::all(Arc::new(open(none.path())));
    let loader = loader(&subset, |o| o.max_bad = MaxBad::Count(100));
    assert!(matches!(loader.epoch(0, 0).next(), Some(Err(LoaderError::TooManyBad { .. }))));
}

#[test]
fn bad_pictures_in_archives() {
    let members: Vec<(String, Vec<u8>)> = (0..12)
        .map(|at| (format!("{}/{at:02}.png", at / 6), if at == 3 { b"bad".to_vec() } else { png(at) }))
        .collect();
    let list: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let root = tempfile::tempdir().unwrap();
    let archive = super::tar(&list);
    for (name, bytes) in [("data.tar", archive.clone()), ("data.tar.gz", super::gz(&archive))] {
        let subset = Subset::all(Arc::new(open(&write(root.path(), name, &bytes))));
        let run = |workers| {
            batches(&loader(&subset, |o| (o.workers, o.max_bad) = (workers, MaxBad::Count(1))), 0, 0)
        };
        let one = run(1);
        let mut found = indexes(&one);
        found.sort_unstable();
        assert_eq!(found, [0, 1, 2, 4, 4, 5, 6, 7, 8, 9, 10, 11], "{name}");
        assert_eq!(run(4), one, "{name}");
    }
}

#[test]
fn failures_are_errors_and_nothing_hangs() {
    let root = folder_and_archives(&["ant", "bee"], 10);
    let path = root.path().join("data");
    let subset = subset(&path, Cache::None, 1);
    let with = |transform: Arc<Transform>| {
        let options = TrainLoaderOptions { batch_size: 4, workers: 3, ..Default::default() };
        TrainLoader::new(subset.clone(), transform, SHAPE, options).unwrap()
    };
    let panics = with(Arc::new(|_, _| panic!("a bug in {}", "augmentation")));
    let results: Vec<_> = panics.epoch(0, 0).collect();
    assert_eq!(results.len(), 1);
    let Err(LoaderError::Image { reason, .. }) = &results[0] else { panic!("{results:?}") };
    assert_eq!(reason, "panicked: a bug in augmentation");
    let short = with(Arc::new(|_, _| Ok(vec![0.0; 3])));
    let error = short.epoch(0, 0).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("3 values, expected [1, 2, 2]"), "{error}");
    let refuses = with(Arc::new(|_, _| Err("too thin".into())));
    let error = refuses.epoch(0, 0).next().unwrap().unwrap_err();
    assert!(error.to_string().contains("too thin"), "{error}");

    for name in ["data.tar", "data.tar.gz"] {
        let archive = root.path().join(name);
        let subset = self::subset(&archive, Cache::None, 4);
        std::fs::OpenOptions::new().write(true).open(&archive).unwrap().set_len(600).unwrap();
        let results: Vec<_> = loader(&subset, |_| {}).epoch(0, 0).collect();
        let error = results.last().unwrap().as_ref().unwrap_err();
        assert!(error.to_string().contains(name), "{name}: {error}");
        assert_eq!(results.len(), 1, "{name}");
    }

    let new = |change: fn(&mut TrainLoaderOptions)| {
        let mut options = TrainLoaderOptions { batch_size: 4, ..Default::default() };
        change(&mut options);
        TrainLoader::new(subset.clone(), Arc::new(sketch), SHAPE, options).err().expect("an error")
    };
    assert!(matches!(new(|o| o.batch_size = 0), LoaderError::Option { field: "batch_size", .. }));
    assert!(matches!(new(|o| o.prefetch = 0), LoaderError::Option { field: "prefetch", .. }));
    assert!(matches!(new(|o| o.workers = 5000), LoaderError::Option { field: "workers", .. }));
    assert!(matches!(new(|o| o.batch_size = 17), LoaderError::TooFew { found: 16, batch_size: 17 }));
}

#[test]
fn workers_stay_within_their_window_and_end_when_dropped() {
    let root = folder_and_archives(&["ant", "bee"], 200);
    for name in ["data", "data.tar.gz"] {
        let subset = subset(&root.path().join(name), Cache::None, 16);
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let transform: Arc<Transform> = Arc::new(move |image, rng| {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_millis(2));
            sketch(image, rng)
        });
        let options = TrainLoaderOptions { batch_size: 4, workers: 4, prefetch: 2, ..Default::default() };
        let loader = TrainLoader::new(subset, transform, SHAPE, options).unwrap();
        let mut epoch = loader.epoch(0, 0);
        epoch.next().unwrap().unwrap();
        std::thread::sleep(Duration::from_millis(200));
        let ahead = made.load(Ordering::SeqCst);
        assert!((4..=12).contains(&ahead), "{name}: a batch and at most two ahead, not {ahead}");
        let begun = Instant::now();
        drop(epoch);
        assert!(begun.elapsed() < Duration::from_secs(1), "{name}: {:?}", begun.elapsed());
        std::thread::sleep(Duration::from_millis(50));
        assert!(made.load(Ordering::SeqCst) <= ahead + 4, "{name}: the threads have ended");
    }
}

#[test]
fn skipped_batches_are_not_decoded() {
    let root = folder_and_archives(&["ant", "bee"], 10);
    for name in ["data", "data.tar.gz"] {
        let subset = subset(&root.path().join(name), Cache::None, 4);
        let seen = Arc::new(Mutex::new(0));
        let counted = Arc::clone(&seen);
        let transform: Arc<Transform> = Arc::new(move |image, rng| {
            *counted.lock().unwrap() += 1;
            sketch(image, rng)
        });
        let options = TrainLoaderOptions { batch_size: 4, workers: 2, ..Default::default() };
        let loader = TrainLoader::new(subset, transform, SHAPE, options).unwrap();
        assert_eq!(loader.epoch(0, 3).count(), 1);
        assert_eq!(*seen.lock().unwrap(), 4, "{name}");
    }
}

/// Images per second, printed with `--nocapture`; here only that a whole epoch of real pictures comes.
#[test]
fn cifar_tar_loads() {
    let Some(path) = real_data("cifar10-train.tar") else { return };
    let set = Arc::new(open(&path));
    let subset = Subset::new(set, (0..50_000).step_by(5).collect());
    let transform: Arc<Transform> = Arc::new(|image: &RgbImage, _: &mut DataRng| {
        Ok(image.data().iter().map(|&level| f32::from(level) / 255.0).collect())
    });
    let mut sums = Vec::new();
    for workers in [1, 2] {
        let options = TrainLoaderOptions { batch_size: 100, workers, ..Default::default() };
        let loader = TrainLoader::new(subset.clone(), Arc::clone(&transform), [32, 32, 3], options).unwrap();
        let begun = Instant::now();
        let sum: f64 =
            loader.epoch(0, 0).map(|batch| f64::from(batch.unwrap().values.iter().sum::<f32>())).sum();
        println!("{workers} workers: {:.0} images/s", 10_000.0 / begun.elapsed().as_secs_f64());
        sums.push(sum);
    }
    assert_eq!(sums[0], sums[1]);
    let mean = sums[0] / (10_000.0 * 3072.0);
    assert!((mean - 0.473).abs() < 0.01, "CIFAR-10's mean over all channels: {mean}");
}
