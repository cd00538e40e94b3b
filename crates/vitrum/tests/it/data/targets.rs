//! Targets that are not one class: tables in each form, sets, mixing, and a source of one's own.

use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vitrum::data::augment::{AugmentError, MixConfig, Mixup};
use vitrum::data::dataset::{
    ClassMap, DatasetError, DatasetProblem, ImageSource, Sample, Skipped, Source, Target, TargetKind,
    splits_of,
};
use vitrum::data::train_loader::{TrainLoader, TrainLoaderOptions};
use vitrum::data::train_set::{
    Subset, TrainDataError, TrainDataOptions, TrainSet, TrainSetOptions, TrainValSets,
};
use vitrum::data::{DatasetOptions, Loader, LoaderOptions, Preprocess, RgbImage, open_dataset};

use super::{png, write};

const FILES: [&str; 4] = ["a.png", "b.png", "c.png", "d.png"];

/// A folder with four pictures and a table.
fn folder(name: &str, table: &str) -> (tempfile::TempDir, std::path::PathBuf) {
    let root = tempfile::tempdir().unwrap();
    for (seed, file) in FILES.iter().enumerate() {
        write(root.path(), file, &png(seed as u64));
    }
    let path = write(root.path(), name, table.as_bytes());
    (root, path)
}

fn options(targets: TargetKind, columns: &[&str]) -> DatasetOptions {
    let target_columns = columns.iter().map(ToString::to_string).collect();
    DatasetOptions { targets, target_columns, ..DatasetOptions::default() }
}

struct Read {
    classes: Vec<String>,
    targets: Vec<Target>,
    notes: String,
}

fn read_with(name: &str, table: &str, options: &DatasetOptions) -> Result<Read, DatasetError> {
    let (_root, path) = folder(name, table);
    let mut source = open_dataset(&path, options)?;
    let mut targets = Vec::new();
    while let Some(sample) = source.next_sample()? {
        targets.push(sample.target.expect("a target"));
    }
    let notes = source.skipped().to_string();
    Ok(Read { classes: source.classes().to_vec(), targets, notes })
}

fn read(table: &str, kind: TargetKind, columns: &[&str]) -> Read {
    read_with("t.csv", table, &options(kind, columns)).unwrap_or_else(|error| panic!("{error}\n{table}"))
}

/// The error of a table, without the folder.
fn refused(table: &str, kind: TargetKind, columns: &[&str]) -> String {
    let error = read_with("t.csv", table, &options(kind, columns)).err().expect("an error").to_string();
    error.split_once("t.csv: ").expect("the file's name").1.to_string()
}

fn sets(sets: &[&[usize]]) -> Vec<Target> {
    sets.iter().map(|set| Target::Classes(set.to_vec())).collect()
}

#[test]
fn lists_of_classes_in_one_column() {
    let names = ["bird", "cat", "dog"].map(String::from);
    let expected = sets(&[&[1, 2], &[], &[0], &[0, 1, 2]]);
    for (title, separator) in [("labels", "|"), ("tags", ";"), ("Labels", " "), ("tag", "| ")] {
        let list = |classes: &[&str]| classes.join(separator);
        let table = format!(
            "file,{title}\na.png,{}\nb.png,\nc.png,bird\nd.png,{}\n",
            list(&["dog", "cat"]),
            list(&["cat", "bird", "dog", "cat"])
        );
        let read = read(&table, TargetKind::Classes, &[]);
        assert_eq!((&read.classes[..], &read.targets), (&names[..], &expected), "{table}");
        let how = if separator == " " { "blanks" } else { &format!("`{}`", separator.trim()) };
        assert_eq!(read.notes, format!("labels are in column `{title}`, separated by {how}"));
    }
    // A quoted field may have commas; names may have blanks where another separator occurs.
    let read = read(
        "file,labels\na.png,\"left lung, right lung\"\nb.png,nan\nc.png,left lung\nd.png,\n",
        TargetKind::Classes,
        &[],
    );
    assert_eq!(read.classes, ["left lung", "right lung"]);
    assert_eq!(read.targets, sets(&[&[0, 1], &[], &[0], &[]]));
}

#[test]
fn lists_of_class_numbers() {
    let table = "file,labels\na.png,2 0\nb.png,\nc.png,1\nd.png,2.0\n";
    let read = read(table, TargetKind::Classes, &[]);
    assert!(read.classes.is_empty());
    assert_eq!(read.targets, sets(&[&[0, 2], &[], &[1], &[2]]));
    assert_eq!(
        refused("file,labels\na.png,0|1\nb.png,0|-2\n", TargetKind::Classes, &[]).lines().next().unwrap(),
        "line 3: label -2 is negative"
    );
    // The set has a name for each number.
    let (_root, path) = folder("t.csv", table);
    let dataset = options(TargetKind::Classes, &[]);
    let set = TrainSet::open(&path, &TrainSetOptions { dataset, ..TrainSetOptions::default() }).unwrap();
    assert_eq!(set.classes(), ["0", "1", "2"]);
    assert_eq!(Subset::all(Arc::new(set)).class_counts(), [1, 1, 2]);
}

#[test]
fn a_column_of_zeros_and_ones_for_each_class() {
    let table =
        "Id,split_of,cat,dog,bird\na.png,x,1,0,0\nb.png,y,0,0,0\nc.png,z,1.0,True,0\nd.png,w,0,1,true\n";
    let read_all = read(table, TargetKind::Classes, &[]);
    assert_eq!(read_all.classes, ["cat", "dog", "bird"]);
    assert_eq!(read_all.targets, sets(&[&[0], &[], &[0, 1], &[1, 2]]));
    assert!(read_all.notes.contains("columns `cat`, `dog`, `bird`"), "{}", read_all.notes);
    assert!(read_all.notes.contains("not read: column `split_of`"), "{}", read_all.notes);
    // Named columns, in their order.
    let read_two = read(table, TargetKind::Classes, &["bird", "cat"]);
    assert_eq!(read_two.classes, ["bird", "cat"]);
    assert_eq!(read_two.targets, sets(&[&[1], &[], &[1], &[0]]));
    let wrong = table.replace("c.png,z,1.0", "c.png,z,2");
    assert_eq!(refused(&wrong, TargetKind::Classes, &[]), "line 4: column `cat` holds `2`, expected 0 or 1");
    let empty = table.replace("c.png,z,1.0", "c.png,z,");
    assert_eq!(
        refused(&empty, TargetKind::Classes, &["cat", "dog"]),
        "line 4: column `cat` is empty, expected 0 or 1"
    );
}

#[test]
fn a_class_map_numbers_the_classes_of_lists_and_of_columns() {
    let class_map = Some(ClassMap::from_names(["dog", "cat"].map(String::from)));
    let with = DatasetOptions { class_map, ..options(TargetKind::Classes, &[]) };
    let lists = "file,labels\na.png,cat|dog\nb.png,cow|dog\nc.png,\nd.png,cat\n";
    let hot = "file,cat,cow,dog\na.png,1,0,1\nb.png,0,1,1\nc.png,0,0,0\nd.png,1,0,0\n";
    for table in [lists, hot] {
        let read = read_with("t.csv", table, &with).unwrap();
        assert_eq!(read.classes, ["dog", "cat"]);
        assert_eq!(read.targets, sets(&[&[0, 1], &[], &[1]]), "{table}");
        assert!(read.notes.contains("left out 1") && read.notes.contains("b.png"), "{}", read.notes);
    }
}

#[test]
fn columns_of_numbers() {
    let values = |rows: &[&[f32]]| rows.iter().map(|row| Target::Values(row.to_vec())).collect::<Vec<_>>();
    let table = "file,age,target\na.png,1,0.5\nb.png,2,-1e3\nc.png,3,7\nd.png,4,0\n";
    let one = read(table, TargetKind::Values, &[]);
    assert_eq!(
        (one.classes, one.targets),
        (vec!["target".into()], values(&[&[0.5], &[-1e3], &[7.0], &[0.0]]))
    );
    assert_eq!(one.notes, "numbers are in column `target`");
    let two = read(table, TargetKind::Values, &["target", "age"]);
    assert_eq!(two.classes, ["target", "age"]);
    assert_eq!(two.targets[0], Target::Values(vec![0.5, 1.0]));
    // Numbered names, the only column, and no header at all.
    let several = read("file,y_0,x,y_1\na.png,1,9,2\nb.png,3,9,4\n", TargetKind::Values, &[]);
    assert_eq!(
        (several.classes, several.targets),
        (vec!["y_0".into(), "y_1".into()], values(&[&[1.0, 2.0], &[3.0, 4.0]]))
    );
    let only = read("image,weight in kg\na.png,1.5\n", TargetKind::Values, &[]);
    assert_eq!((only.classes, only.targets), (vec!["weight in kg".into()], values(&[&[1.5]])));
    let bare = read("a.png,1.5,2\nb.png,2.5,3\n", TargetKind::Values, &[]);
    assert_eq!(
        (bare.classes, bare.targets),
        (vec!["0".into(), "1".into()], values(&[&[1.5, 2.0], &[2.5, 3.0]]))
    );
}

#[test]
fn faulty_columns_of_numbers_are_named() {
    let table = |cell: &str| format!("file,target\na.png,1\nb.png,{cell}\n");
    for (cell, found) in [
        ("abc", "line 3: column `target` holds `abc`, expected a number"),
        ("", "line 3: column `target` is empty, expected a number"),
        ("nan", "line 3: column `target` holds `nan`, expected a number"),
        ("1e60", "line 3: column `target` holds `1e60`, expected a number"),
    ] {
        assert_eq!(refused(&table(cell), TargetKind::Values, &[]), found);
    }
    let text = refused("file,width,height\na.png,1,2\n", TargetKind::Values, &[]);
    assert_eq!(
        text,
        "line 1: no column of numbers, such as `target` or `value`: found columns `width`, `height`\n  hint: name the \
         columns that hold the targets"
    );
    let text = refused("file,kind,size\na.png,x,y\nb.png,z,w\n", TargetKind::Classes, &[]);
    assert!(
        text.starts_with("line 1: no column of lists, such as `labels` or `tags`, and no columns of 0"),
        "{text}"
    );
    let (_root, path) = folder("t.csv", "file,width,height\na.png,1,2\n");
    let error = open_dataset(&path, &options(TargetKind::Values, &["width", "depth"])).err().unwrap();
    assert!(
        matches!(&error.problem, DatasetProblem::TargetColumns { missing, .. } if missing == &["depth"]),
        "{error}"
    );
    assert!(
        error.to_string().ends_with("no column `depth`; the columns besides the path are `width`, `height`")
    );
}

#[test]
fn one_class_is_read_as_before() {
    // The same table, read for one class per image.
    let table = "file,label\na.png,cat|dog\nb.png,cat\nc.png,cat\nd.png,cat\n";
    let single = read(table, TargetKind::Class, &[]);
    assert_eq!(single.classes, ["cat", "cat|dog"]);
    assert_eq!(single.targets, [1, 0, 0, 0].map(Target::Class));
    let hot = "file,cat,dog\na.png,1,0\nb.png,0,1\n";
    assert!(refused(hot, TargetKind::Class, &[]).starts_with("line 1: a column for each class (cat, dog)"));
}

fn data(path: &Path, targets: TargetKind) -> TrainDataOptions {
    TrainDataOptions { targets, val_fraction: 0.25, ..TrainDataOptions::new(path) }
}

#[test]
fn parts_of_a_table_hold_targets_too() {
    let table = "file,split,cat,dog\na.png,train,1,0\nb.png,train,1,1\nc.png,train,0,0\nd.png,val,0,1\n";
    let (_root, path) = folder("t.csv", table);
    assert_eq!(splits_of(&path).unwrap().len(), 2);
    let sets = TrainValSets::open(&data(&path, TargetKind::Classes)).unwrap();
    assert_eq!(
        (sets.train.len(), sets.val.len(), &sets.classes[..]),
        (3, 1, &["cat".into(), "dog".into()][..])
    );
    assert_eq!(sets.val.set().target(0), Some(&Target::Classes(vec![1])));
}

#[test]
fn sets_without_one_class_are_split_at_random() {
    let table: String = (0..40).map(|at| format!("{},{}\n", FILES[at % 4], at)).collect();
    let (_root, path) = folder("t.csv", &format!("file,target\n{table}"));
    let sets =
        |seed| TrainValSets::open(&TrainDataOptions { seed, ..data(&path, TargetKind::Values) }).unwrap();
    let first = sets(1);
    assert_eq!((first.train.len(), first.val.len()), (30, 10));
    assert!(first.how.ends_with("split off at random with seed 1"), "{}", first.how);
    assert!(first.val.indexes().iter().all(|index| !first.train.indexes().contains(index)));
    assert_eq!(first.val.indexes(), sets(1).val.indexes());
    assert_ne!(first.val.indexes(), sets(2).val.indexes());
    assert_ne!(first.val.indexes(), (30..40).collect::<Vec<u32>>());
}

#[test]
fn fingerprints_know_the_targets() {
    let print = |table: &str, kind| {
        let (_root, path) = folder("t.csv", table);
        let dataset = options(kind, &[]);
        let set = TrainSet::open(&path, &TrainSetOptions { dataset, ..TrainSetOptions::default() }).unwrap();
        Subset::all(Arc::new(set)).fingerprint()
    };
    let lists =
        ["cat|dog", "cat", "", "dog"].map(|list| format!("file,labels\na.png,{list}\nb.png,cat|dog\n"));
    let mut prints: Vec<String> = lists.iter().map(|table| print(table, TargetKind::Classes)).collect();
    for value in ["0", "1", "1.5"] {
        prints.push(print(&format!("file,target\na.png,{value}\nb.png,0\n"), TargetKind::Values));
    }
    assert_eq!(prints[0], print(&lists[0], TargetKind::Classes));
    prints.sort();
    prints.dedup();
    assert_eq!(prints.len(), 7);
}

/// What checkpoints of earlier versions hold.
#[test]
fn fingerprints_of_one_class_are_those_of_earlier_versions() {
    let (root, path) = folder("t.csv", "file,label\na.png,dog\nb.png,cat\nc.png,dog\n");
    let set = TrainSet::open(&path, &TrainSetOptions::default()).unwrap();
    let mut hash = Sha256::new();
    hash.update(b"cat\0dog\0");
    for (name, label) in [("a.png", 1_u64), ("b.png", 0), ("c.png", 1)] {
        hash.update(name);
        hash.update([0]);
        hash.update(label.to_le_bytes());
        hash.update(std::fs::metadata(root.path().join(name)).unwrap().len().to_le_bytes());
    }
    let expected: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(Subset::all(Arc::new(set)).fingerprint(), expected);
}

#[test]
fn validation_images_have_the_classes_and_the_values_of_training() {
    let root = tempfile::tempdir().unwrap();
    FILES.iter().for_each(|file| _ = write(root.path(), file, &png(1)));
    let open = |kind, train: &str, val: &str| {
        let train = write(root.path(), "train.csv", train.as_bytes());
        let val_data = Some(write(root.path(), "val.csv", val.as_bytes()));
        TrainValSets::open(&TrainDataOptions { val_data, ..data(&train, kind) })
    };
    let train = "file,labels\na.png,ant|bee\nb.png,cow\n";
    let sets = open(TargetKind::Classes, train, "file,labels\nc.png,cow|bee\nd.png,\n").unwrap();
    assert_eq!(sets.val.set().target(0), Some(&Target::Classes(vec![1, 2])));
    assert_eq!(sets.val.set().target(1), Some(&Target::Classes(vec![])));
    let error = open(TargetKind::Classes, train, "file,labels\nc.png,dog|bee\n").unwrap_err();
    assert!(matches!(&error, TrainDataError::ValClasses { unknown, .. } if unknown == &["dog"]), "{error}");
    let train = "file,y1,y2\na.png,1,2\nb.png,3,4\n";
    let sets = open(TargetKind::Values, train, "file,y2,y1\nc.png,2,1\n").unwrap();
    assert_eq!(
        sets.val.set().target(0),
        Some(&Target::Values(vec![1.0, 2.0])),
        "columns are matched by name"
    );
    let error = open(TargetKind::Values, train, "file,y1\nc.png,2\n").unwrap_err();
    assert!(
        error.to_string().contains("the values are `y1`, expected `y1`, `y2` as the training images"),
        "{error}"
    );
}

#[test]
fn targets_of_another_kind_are_refused() {
    let root = tempfile::tempdir().unwrap();
    for name in ["cat/a.png", "dog/b.png"] {
        write(root.path(), name, &png(1));
    }
    let error = TrainValSets::open(&data(root.path(), TargetKind::Classes)).unwrap_err();
    let kinds = (TargetKind::Class, TargetKind::Classes);
    assert!(
        matches!(&error, TrainDataError::OtherTargets { found, expected, .. } if (*found, *expected) == kinds),
        "{error}"
    );
    assert!(error.to_string().contains("cat/a.png is one class, expected a list of classes"), "{error}");
    let (_root, path) = folder("t.csv", "file,labels\na.png,\nb.png,\n");
    let error = TrainValSets::open(&data(&path, TargetKind::Classes)).unwrap_err();
    assert!(matches!(error, TrainDataError::NoClasses { .. }), "{error}");
}

/// A source of one's own: three pictures with these targets.
struct Own(Vec<Target>, usize);

impl Source for Own {
    fn classes(&self) -> &[String] {
        &[]
    }

    fn count(&self) -> Option<usize> {
        Some(self.0.len())
    }

    fn skipped(&self) -> &Skipped {
        static NONE: Skipped = Skipped::NONE;
        &NONE
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        let Some(target) = self.0.get(self.1).cloned() else { return Ok(None) };
        self.1 += 1;
        let image = RgbImage::filled(4, 4, [self.1 as u8; 3]).expect("an image");
        let name = self.1.to_string();
        Ok(Some(Sample { name, target: Some(target), image: ImageSource::Pixels(image) }))
    }
}

#[test]
fn a_source_of_ones_own_gives_any_target() {
    let preprocess = Preprocess { input_size: [3, 4, 4], crop_pct: 1.0, ..Preprocess::default() };
    for targets in [
        vec![Target::Class(1), Target::Class(0), Target::Class(2)],
        sets(&[&[0, 2], &[], &[1]]),
        [0.5, 1.5, 2.5].map(|value| Target::Values(vec![value])).to_vec(),
    ] {
        let own = || Box::new(Own(targets.clone(), 0));
        let options = LoaderOptions { batch_size: 3, workers: 2, ..LoaderOptions::default() };
        let batch = Loader::new(own(), preprocess.clone(), options).unwrap().next().unwrap().unwrap();
        assert_eq!(batch.targets, targets.iter().cloned().map(Some).collect::<Vec<_>>());
        let set = TrainSet::from_source("own", own(), &TrainSetOptions::default()).unwrap();
        let work = |image: &RgbImage, _: &mut _| Ok(vec![f32::from(image.data()[0]); 1]);
        let options = TrainLoaderOptions { batch_size: 3, workers: 1, ..TrainLoaderOptions::default() };
        let loader =
            TrainLoader::new(Subset::all(Arc::new(set)), Arc::new(work), [1, 1, 1], options).unwrap();
        let batch = loader.epoch(0, 0).next().unwrap().unwrap();
        assert_eq!(batch.len(), 3);
        for (index, target) in batch.indexes.iter().zip(&batch.targets) {
            assert_eq!(target, &targets[*index as usize]);
        }
    }
}

#[test]
fn rows_of_targets_are_mixed_as_images_are() {
    let mixup = |smoothing, outputs| {
        Mixup::new(MixConfig { mixup: 1.0, smoothing, ..MixConfig::default() }, outputs).unwrap()
    };
    let shape = [3, 1, 1, 2];
    let images = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0];
    // Values: no smoothing; the mean of each pair with its own share.
    let values = [[1.0, -2.0], [4.0, 4.0], [3.0, 8.0]].map(|row| Target::Values(row.to_vec()));
    let mixing = mixup(0.1, 2);
    assert_eq!(mixing.rows(&values).unwrap(), [1.0, -2.0, 4.0, 4.0, 3.0, 8.0]);
    let mut rng = vitrum::data::random::batch_rng(1, 2, 3);
    let mut mixed = images.to_vec();
    let rows = mixing.apply_targets(&mut mixed, shape, &values, &mut rng).unwrap();
    let lam = (mixed[0] - 5.0) / (1.0 - 5.0);
    assert!(lam > 0.0 && lam < 1.0, "{lam}");
    let near = |found: f32, expected: f32| assert!((found - expected).abs() < 1e-5, "{found} {expected}");
    near(rows[0], lam + 3.0 * (1.0 - lam));
    near(rows[1], -2.0 * lam + 8.0 * (1.0 - lam));
    near(rows[4], 3.0 * lam + (1.0 - lam));
    near(rows[5], 8.0 * lam - 2.0 * (1.0 - lam));
    assert_eq!((&rows[2..4], &mixed[2..4]), (&[4.0, 4.0][..], &[3.0, 4.0][..]), "the middle one stays");
    // Classes: smoothed as timm's `BinaryCrossEntropy` does it, then mixed.
    let sets = sets(&[&[0, 3], &[], &[1]]);
    let (on, off) = ((1.0 - 0.1 + 0.1 / 4.0) as f32, (0.1 / 4.0) as f32);
    let smooth = mixup(0.1, 4).rows(&sets).unwrap();
    assert_eq!(smooth, [on, off, off, on, off, off, off, off, off, on, off, off]);
    assert_eq!(mixup(0.0, 4).rows(&sets).unwrap(), [1., 0., 0., 1., 0., 0., 0., 0., 0., 1., 0., 0.]);
    // One class: the same numbers as ever.
    let labels = [2, 0, 1];
    let of_classes = labels.map(Target::Class);
    let [mut one, mut two] = [images.to_vec(), images.to_vec()];
    let draw = || vitrum::data::random::batch_rng(4, 5, 6);
    let as_labels = mixup(0.1, 4).apply(&mut one, shape, &labels, &mut draw()).unwrap();
    let as_targets = mixup(0.1, 4).apply_targets(&mut two, shape, &of_classes, &mut draw()).unwrap();
    assert_eq!((as_labels, one), (as_targets, two));
}

#[test]
fn rows_that_do_not_fit_are_errors() {
    let mixup = Mixup::new(MixConfig::default(), 2).unwrap();
    let error = mixup.rows(&sets(&[&[0], &[1, 2]])).unwrap_err();
    assert_eq!(error, AugmentError::Label { at: 1, label: 2, num_classes: 2 });
    let error = mixup.rows(&[Target::Values(vec![1.0, 2.0]), Target::Values(vec![1.0])]).unwrap_err();
    assert_eq!(error, AugmentError::Values { at: 1, found: 1, expected: 2 });
    let error = mixup.rows(&[Target::Class(1), Target::Values(vec![1.0, 2.0])]).unwrap_err();
    assert_eq!(error, AugmentError::Kinds { at: 1, found: TargetKind::Values, expected: TargetKind::Class });
    let mut values = vec![0.0; 2];
    let error = mixup.apply_targets(
        &mut values,
        [2, 1, 1, 1],
        &[Target::Class(1)],
        &mut vitrum::data::random::batch_rng(1, 1, 1),
    );
    assert_eq!(error, Err(AugmentError::Batch { shape: [2, 1, 1, 1], labels: 1, found: 2 }));
}
