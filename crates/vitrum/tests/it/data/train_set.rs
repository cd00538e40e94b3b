//! Training data: any order, parts, cache.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use vitrum::data::dataset::{DatasetProblem, ImageSource, Split, splits_of};
use vitrum::data::train_set::{
    Cache, Subset, TrainDataError, TrainDataOptions, TrainSet, TrainSetOptions, TrainValSets,
};
use vitrum::data::{
    DatasetOptions, DecodeOptions, Loader, LoaderOptions, Preprocess, RgbImage, Source, open_dataset,
};

use super::decode::real_data;
use super::{gz, png, tar, write};

/// `count` pictures of each class, the classes' names being `names`.
pub fn members(names: &[&str], count: usize) -> Vec<(String, Vec<u8>)> {
    let member =
        |class: usize, at: usize| (format!("{}/{at:03}.png", names[class]), png((class * 1000 + at) as u64));
    (0..names.len())
        .flat_map(|class| (0..count).map(move |at| (class, at)))
        .map(|(c, a)| member(c, a))
        .collect()
}

/// A folder `data/`, `data.tar` and `data.tar.gz` of the same pictures.
pub fn folder_and_archives(names: &[&str], count: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let members = members(names, count);
    for (name, bytes) in &members {
        write(root.path(), &format!("data/{name}"), bytes);
    }
    let list: Vec<(&str, &[u8])> = members.iter().map(|(name, bytes)| (name.as_str(), &bytes[..])).collect();
    let archive = tar(&list);
    write(root.path(), "data.tar", &archive);
    write(root.path(), "data.tar.gz", &gz(&archive));
    root
}

pub fn open(path: &Path) -> TrainSet {
    TrainSet::open(path, &TrainSetOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

/// Every picture by name, taken from the last to the first.
fn backwards(set: &TrainSet) -> BTreeMap<String, (Option<usize>, RgbImage)> {
    let one = |index: u32| {
        let image = set.image(index).unwrap();
        (set.name(index).to_string(), (set.label(index), (*image).clone()))
    };
    (0..set.len() as u32).rev().map(one).collect()
}

fn streamed(mut source: Box<dyn Source>) -> BTreeMap<String, (Option<usize>, RgbImage)> {
    let mut all = BTreeMap::new();
    while let Some(sample) = source.next_sample().unwrap() {
        let label = sample.label();
        all.insert(sample.name, (label, sample.image.decode(&DecodeOptions::timm()).unwrap()));
    }
    all
}

#[test]
fn folder_archive_and_stream_hold_the_same_pictures_in_any_order() {
    let root = folder_and_archives(&["ant", "bee", "cat"], 4);
    let folder = open(&root.path().join("data"));
    assert_eq!((folder.len(), folder.classes()), (12, &["ant", "bee", "cat"].map(String::from)[..]));
    assert!(!folder.is_stream());
    let expected = backwards(&folder);
    assert_eq!(expected.len(), 12);
    for (name, is_stream) in [("data.tar", false), ("data.tar.gz", true)] {
        let path = root.path().join(name);
        let set = open(&path);
        assert_eq!(set.is_stream(), is_stream, "{name}");
        assert_eq!(backwards(&set), expected, "{name}");
        assert_eq!(streamed(open_dataset(&path, &DatasetOptions::default()).unwrap()), expected, "{name}");
        assert_eq!(
            Subset::all(Arc::new(set)).fingerprint(),
            Subset::all(Arc::new(open(&root.path().join("data")))).fingerprint(),
            "{name}: names, labels and sizes are the same"
        );
    }
    let options = TrainSetOptions { sequential: true, ..Default::default() };
    let sequential = TrainSet::open(root.path().join("data.tar"), &options).unwrap();
    assert!(sequential.is_stream());
    assert_eq!(backwards(&sequential), expected);
}

#[test]
fn binary_sets_and_the_demo_set_in_any_order() {
    let root = tempfile::tempdir().unwrap();
    let record =
        |label: u8| -> Vec<u8> { (0..3073).map(|at| if at == 0 { label } else { at as u8 }).collect() };
    let batch = |labels: &[u8]| labels.iter().flat_map(|&label| record(label)).collect::<Vec<u8>>();
    write(root.path(), "data_batch_1.bin", &batch(&[3, 1]));
    write(root.path(), "data_batch_2.bin", &batch(&[9]));
    write(root.path(), "test_batch.bin", &batch(&[5]));
    assert_eq!(splits_of(root.path()).unwrap(), [Split::Train, Split::Test]);
    let train = DatasetOptions { split: Some(Split::Train), ..Default::default() };
    let options = TrainSetOptions { dataset: train.clone(), ..Default::default() };
    let set = TrainSet::open(root.path(), &options).unwrap();
    assert_eq!((0..3).map(|index| set.label(index)).collect::<Vec<_>>(), [Some(3), Some(1), Some(9)]);
    assert_eq!(backwards(&set), streamed(open_dataset(root.path(), &train).unwrap()));

    let sets =
        TrainValSets::open(&TrainDataOptions { demo_size: 16, ..TrainDataOptions::new("demo:40") }).unwrap();
    assert_eq!((sets.train.len(), sets.val.len(), sets.classes.len()), (40, 10, 10));
    assert!(sets.how.contains("part `val` of demo:40"), "{}", sets.how);
    let names = |subset: &Subset| -> BTreeSet<String> {
        subset.indexes().iter().map(|&index| subset.set().name(index).to_string()).collect()
    };
    assert!(names(&sets.train).is_disjoint(&names(&sets.val)));
    // `demo` where nothing is said is the validation part.
    let shown = DatasetOptions { demo_size: Some(16), ..Default::default() };
    let shown = streamed(open_dataset("demo", &shown).unwrap());
    assert_eq!(shown.len(), 1000);
    let val = backwards(sets.val.set());
    assert!(val.iter().all(|(name, picture)| shown[name] == *picture));
    let missing = TrainSet::open("demo:0", &TrainSetOptions::default()).unwrap_err();
    assert!(missing.to_string().contains("demo:COUNT"), "{missing}");
}

fn split(root: &Path, change: impl Fn(&mut TrainDataOptions)) -> Result<TrainValSets, TrainDataError> {
    let mut options = TrainDataOptions::new(root);
    change(&mut options);
    TrainValSets::open(&options)
}

#[test]
fn a_share_of_every_class_is_split_off() {
    let root = tempfile::tempdir().unwrap();
    for (class, count) in [("a", 40), ("b", 7), ("c", 2), ("d", 1)] {
        for at in 0..count {
            write(root.path(), &format!("{class}/{at}.png"), &png(at));
        }
    }
    let with = |seed, val_fraction, fraction| {
        split(root.path(), |o| (o.seed, o.val_fraction, o.fraction) = (seed, val_fraction, fraction)).unwrap()
    };
    let sets = with(0, 0.1, 1.0);
    assert_eq!(sets.classes, ["a", "b", "c", "d"]);
    assert_eq!(sets.val.class_counts(), [4, 1, 1, 0]);
    assert_eq!(sets.train.class_counts(), [36, 6, 1, 1]);
    assert!(sets.how.contains("6 of 50 images"), "{}", sets.how);
    let all: BTreeSet<u32> = sets.train.indexes().iter().chain(sets.val.indexes()).copied().collect();
    assert_eq!(all.len(), 50);
    let again = with(0, 0.1, 1.0);
    assert_eq!((again.val.indexes(), again.fingerprints()), (sets.val.indexes(), sets.fingerprints()));
    let other = with(1, 0.1, 1.0);
    assert_ne!(other.val.indexes(), sets.val.indexes());
    assert_ne!(other.fingerprints(), sets.fingerprints());
    assert_eq!(other.val.class_counts(), [4, 1, 1, 0]);

    // Smaller shares lie within larger ones, and the validation images stay.
    let (half, tenth) = (with(0, 0.1, 0.5), with(0, 0.1, 0.1));
    assert_eq!(
        (half.train.class_counts(), tenth.train.class_counts()),
        (vec![18, 3, 1, 1], vec![4, 1, 1, 1])
    );
    assert_eq!(half.val.indexes(), sets.val.indexes());
    let contains = |a: &Subset, b: &Subset| b.indexes().iter().all(|index| a.indexes().contains(index));
    assert!(contains(&sets.train, &half.train) && contains(&half.train, &tenth.train));

    let none = with(0, 0.0, 1.0);
    assert!(none.val.is_empty() && none.train.len() == 50 && none.how == "no validation images");
}

#[test]
fn the_part_that_is_there_comes_before_a_share() {
    let root = tempfile::tempdir().unwrap();
    for name in ["train/a/1.png", "train/b/2.png", "train/c/3.png", "test/c/4.png", "test/a/5.png"] {
        write(root.path(), name, &png(1));
    }
    assert_eq!(splits_of(root.path()).unwrap(), [Split::Train, Split::Test]);
    let sets = split(root.path(), |_| {}).unwrap();
    assert_eq!((sets.train.len(), sets.val.len()), (3, 2));
    assert!(sets.how.contains("part `test`"), "{}", sets.how);
    // The test part alone has two classes, numbered as the training part's.
    let labels: Vec<_> =
        sets.val.indexes().iter().map(|&index| sets.val.set().label(index).unwrap()).collect();
    assert_eq!((labels, sets.val.set().classes()), (vec![0, 2], &["a", "b", "c"].map(String::from)[..]));
    write(root.path(), "val/b/6.png", &png(1));
    assert_eq!(split(root.path(), |_| {}).unwrap().val.len(), 1);
    assert_eq!(split(root.path(), |o| o.val_split = "test".into()).unwrap().val.len(), 2);
    let elsewhere = tempfile::tempdir().unwrap();
    for name in ["b/1.png", "c/1.png", "b/2.png"] {
        write(elsewhere.path(), name, &png(1));
    }
    let sets = split(root.path(), |o| o.val_data = Some(elsewhere.path().into())).unwrap();
    assert_eq!(sets.val.class_counts(), [0, 2, 1]);
    assert!(sets.how.contains(&elsewhere.path().display().to_string()), "{}", sets.how);

    write(elsewhere.path(), "yak/1.png", &png(1));
    let error = split(root.path(), |o| o.val_data = Some(elsewhere.path().into())).unwrap_err();
    assert!(matches!(&error, TrainDataError::ValClasses { unknown, .. } if unknown == &["yak"]), "{error}");

    // A single folder called `test` among others is a class.
    let classes = tempfile::tempdir().unwrap();
    for name in ["car/1.png", "car/2.png", "test/1.png", "test/2.png"] {
        write(classes.path(), name, &png(1));
    }
    assert_eq!(splits_of(classes.path()).unwrap(), []);
    assert_eq!(split(classes.path(), |_| {}).unwrap().classes, ["car", "test"]);

    let archive =
        tar(&[("x/train/a/1.png", &png(1)), ("x/train/b/1.png", &png(2)), ("x/val/b/2.png", &png(3))]);
    let archive = write(root.path(), "parts.tar", &archive);
    let sets = split(&archive, |_| {}).unwrap();
    assert_eq!((sets.train.len(), sets.val.len(), sets.val.class_counts()), (2, 1, vec![0, 1]));
}

#[test]
fn tables_are_matched_by_name_or_number() {
    let root = tempfile::tempdir().unwrap();
    for name in ["1.png", "2.png", "3.png"] {
        write(root.path(), name, &png(1));
    }
    let table = |name: &str, text: &str| write(root.path(), name, text.as_bytes());
    let train = table("train.csv", "file,label\n1.png,dog\n2.png,cat\n");
    let val = table("val.csv", "file,label\n3.png,dog\n");
    let sets = split(&train, |o| o.val_data = Some(val.clone())).unwrap();
    assert_eq!((sets.classes.join(" "), sets.val.class_counts()), ("cat dog".into(), vec![0, 1]));
    let train = table("train.csv", "file,class_index\n1.png,0\n2.png,2\n");
    let val = table("val.csv", "file,class_index\n3.png,2\n");
    let error = split(&train, |o| o.val_data = Some(val.clone())).unwrap_err();
    assert!(
        matches!(&error, TrainDataError::EmptyClasses { empty, total: 3, .. } if empty == &["1"]),
        "{error}"
    );
    let with_gaps = |val: &std::path::Path| {
        split(&train, |o| {
            o.val_data = Some(val.to_path_buf());
            o.allow_empty_classes = true;
        })
    };
    let sets = with_gaps(&val).unwrap();
    assert_eq!((sets.classes.join(" "), sets.val.class_counts()), ("0 1 2".into(), vec![0, 0, 1]));
    let told = sets.notes().join("; ");
    assert!(told.contains("1 of 3 classes have no training image: `1`"), "{told}");
    let val = table("val.csv", "file,class_index\n3.png,3\n");
    let error = with_gaps(&val).unwrap_err();
    assert!(matches!(&error, TrainDataError::ValClasses { unknown, .. } if unknown == &["3"]), "{error}");
}

#[test]
fn data_that_cannot_be_trained_on() {
    let root = tempfile::tempdir().unwrap();
    for name in ["plain/1.png", "one/a/1.png", "one/a/2.png"] {
        write(root.path(), name, &png(1));
    }
    let error = split(&root.path().join("one"), |_| {}).unwrap_err();
    assert!(matches!(&error, TrainDataError::OneClass { class, .. } if class == "a"), "{error}");
    let table = write(root.path(), "t.csv", b"file,label\nplain/1.png,x\none/a/1.png,\n");
    let error = split(&table, |_| {}).unwrap_err();
    assert!(matches!(&error, TrainDataError::NoLabels { count: 1, total: 2, .. }), "{error}");
    assert!(error.to_string().contains("one/a/1.png"), "{error}");
    let error = split(&root.path().join("plain"), |_| {}).unwrap_err();
    assert!(matches!(&error, TrainDataError::NoLabels { count: 1, total: 1, .. }), "{error}");
    let error = split(&root.path().join("absent"), |_| {}).unwrap_err();
    assert!(
        matches!(&error, TrainDataError::Dataset(e) if matches!(e.problem, DatasetProblem::Io(_))),
        "{error}"
    );
    type Change = fn(&mut TrainDataOptions);
    let changes: [(&str, Change); 6] = [
        ("val_fraction", |o| o.val_fraction = 1.0),
        ("val_fraction", |o| o.val_fraction = f64::NAN),
        ("fraction", |o| o.fraction = 0.0),
        ("train_split", |o| o.train_split = "first".into()),
        ("val_split", |o| o.val_split = "train".into()),
        ("shuffle_buffer", |o| o.shuffle_buffer = 0),
    ];
    for (name, change) in changes {
        let error = split(&root.path().join("one"), change).unwrap_err();
        assert!(matches!(&error, TrainDataError::Option { field, .. } if *field == name), "{name}: {error}");
    }
}

#[test]
fn the_cache_is_taken_where_it_fits() {
    let root = folder_and_archives(&["ant", "bee"], 3);
    for name in ["data", "data.tar", "data.tar.gz"] {
        let path = root.path().join(name);
        for (mode, images, cached) in [
            (Cache::None, 6, false),
            (Cache::Auto, 6, true),
            (Cache::Ram, 6, true),
            (Cache::Auto, 1 << 40, false),
        ] {
            assert_eq!(open(&path).with_cache(mode, images).unwrap().is_cached(), cached, "{name} {mode:?}");
        }
        let error = open(&path).with_cache(Cache::Ram, 1 << 40).unwrap_err();
        assert!(matches!(error, TrainDataError::CacheTooLarge { .. }), "{error}");
        let kept = open(&path).with_cache(Cache::Ram, 6).unwrap();
        assert_eq!(backwards(&kept), backwards(&open(&path)), "{name}");
    }
    // What was decoded once is not read again.
    let set = open(&root.path().join("data")).with_cache(Cache::Ram, 6).unwrap();
    let first = set.image(0).unwrap();
    std::fs::remove_dir_all(root.path().join("data")).unwrap();
    assert!(Arc::ptr_eq(&set.image(0).unwrap(), &first));
    assert!(set.image(1).is_err());
}

#[test]
fn a_subset_can_be_evaluated() {
    let root = folder_and_archives(&["ant", "bee"], 5);
    let preprocess = Preprocess { input_size: [3, 8, 8], ..Preprocess::default() };
    let mut results = Vec::new();
    for name in ["data", "data.tar", "data.tar.gz"] {
        for cache in [Cache::None, Cache::Ram] {
            let set = Arc::new(open(&root.path().join(name)).with_cache(cache, 10).unwrap());
            let subset = Subset::new(Arc::clone(&set), vec![7, 1, 3, 8, 0]);
            for _ in 0..2 {
                let options = LoaderOptions { batch_size: 2, workers: 2, ..Default::default() };
                let loader = Loader::new(subset.source().unwrap(), preprocess.clone(), options).unwrap();
                assert_eq!((loader.num_samples(), loader.classes().len()), (Some(5), 2));
                results.push(loader.map(Result::unwrap).collect::<Vec<_>>());
            }
        }
    }
    let sizes: Vec<usize> = results[0].iter().map(|batch| batch.names.len()).collect();
    assert_eq!(sizes, [2, 2, 1]);
    assert_eq!(results[0][0].names, ["ant/000.png", "ant/001.png"]);
    assert_eq!(results[0][2].labels(), [Some(1)]);
    assert!(results.iter().all(|result| *result == results[0]));
}

#[test]
fn raw_pictures_are_as_they_lie() {
    let root = folder_and_archives(&["ant", "bee"], 1);
    for name in ["data.tar", "data.tar.gz"] {
        let set = open(&root.path().join(name));
        let ImageSource::Encoded(bytes) = set.raw(1).unwrap() else { panic!("not encoded") };
        assert_eq!((bytes.as_slice(), set.size(1)), (&png(1000)[..], png(1000).len() as u64));
        assert!(set.file(1).is_none());
    }
    let set = open(&root.path().join("data"));
    assert_eq!(set.file(1), Some(&*root.path().join("data/bee/000.png")));
    assert_eq!(set.size(1), png(1000).len() as u64);
}

#[test]
fn cifar_tar_splits_into_45_000_and_5_000() {
    let Some(path) = real_data("cifar10-train.tar") else { return };
    let sets = split(&path, |o| o.seed = 0).unwrap();
    assert_eq!((sets.train.len(), sets.val.len(), sets.classes.len()), (45_000, 5_000, 10));
    assert!(sets.train.class_counts().iter().all(|&count| count == 4_500));
    assert!(sets.val.class_counts().iter().all(|&count| count == 500));
    let last = *sets.train.indexes().last().unwrap();
    let image = sets.train.set().image(last).unwrap();
    assert_eq!((image.width(), image.height()), (32, 32));
    assert!(sets.train.set().name(last).starts_with("train/truck/"), "{}", sets.train.set().name(last));
}
