//! WebDataset samples and shards.

use std::path::Path;
use std::sync::Arc;

use vitrum::data::dataset::{ClassMap, DatasetError, DatasetProblem, Split, splits_of};
use vitrum::data::train_set::{Subset, TrainDataOptions, TrainSet, TrainSetOptions, TrainValSets};
use vitrum::data::{DatasetOptions, Loader, LoaderOptions, Preprocess, Source, open_dataset};

use super::{gz, png, tar, tar_header, write};

type Members<'a> = Vec<(&'a str, &'a str)>;

/// A tar; the content `PNG` becomes a picture.
fn shard(members: &[(&str, &str)]) -> Vec<u8> {
    let content = |at: usize, text: &str| if text == "PNG" { png(at as u64) } else { text.into() };
    let contents: Vec<Vec<u8>> =
        members.iter().enumerate().map(|(at, (_, text))| content(at, text)).collect();
    let list: Vec<(&str, &[u8])> =
        members.iter().zip(&contents).map(|((name, _), bytes)| (*name, &bytes[..])).collect();
    tar(&list)
}

fn try_open(members: &[(&str, &str)], options: &DatasetOptions) -> Result<Box<dyn Source>, DatasetError> {
    let root = tempfile::tempdir().unwrap();
    open_dataset(write(root.path(), "set.tar", &shard(members)), options)
}

fn samples(source: &mut dyn Source) -> Vec<(String, Option<usize>)> {
    let next = || source.next_sample().unwrap().map(|sample| (sample.name.clone(), sample.label()));
    std::iter::from_fn(next).collect()
}

struct Opened {
    classes: Vec<String>,
    labels: Vec<Option<usize>>,
    names: Vec<String>,
    skipped: String,
}

fn opened(mut source: Box<dyn Source>) -> Opened {
    let (names, labels) = samples(&mut *source).into_iter().unzip();
    Opened { classes: source.classes().to_vec(), labels, names, skipped: source.skipped().to_string() }
}

fn read(members: &[(&str, &str)]) -> Opened {
    opened(try_open(members, &DatasetOptions::default()).unwrap_or_else(|error| panic!("{error}")))
}

fn refused(members: &[(&str, &str)]) -> String {
    try_open(members, &DatasetOptions::default()).err().expect("an error").to_string()
}

fn open(path: &Path) -> Opened {
    opened(open_dataset(path, &DatasetOptions::default()).unwrap_or_else(|error| panic!("{error}")))
}

#[test]
fn numbers_before_and_after_the_picture() {
    let found = read(&[
        ("0.cls", "3\n"),
        ("0.png", "PNG"),
        ("d/1.png", "PNG"),
        ("d/1.cls", "1.0"),
        ("2.CLS", " 0 "),
        ("2.PNG", "PNG"),
    ]);
    assert_eq!(found.labels, [Some(3), Some(1), Some(0)]);
    assert!(found.classes.is_empty(), "{:?}", found.classes);
    assert_eq!(found.skipped, "labels from `.cls` members");
    for kind in ["label", "index", "txt", "json"] {
        let found = read(&[("a.png", "PNG"), (&format!("a.{kind}"), "7")]);
        assert_eq!((found.labels, found.skipped), (vec![Some(7)], format!("labels from `.{kind}` members")));
    }
}

#[test]
fn words_are_classes_in_natural_order() {
    let words = ["class10", "class2", "class10"];
    for kind in ["cls", "txt", "label"] {
        let names: Vec<String> =
            (0..3).flat_map(|at| [format!("{at}.png"), format!("{at}.{kind}")]).collect();
        let members: Members = names
            .iter()
            .enumerate()
            .map(|(at, name)| (&**name, if at % 2 == 0 { "PNG" } else { words[at / 2] }))
            .collect();
        let found = read(&members);
        assert_eq!(found.classes, ["class2", "class10"]);
        assert_eq!(found.labels, [Some(1), Some(0), Some(1)], "{kind}");
        let class_map = Some(ClassMap::from_names(["class10".into(), "other".into()]));
        let options = DatasetOptions { class_map, ..Default::default() };
        let found = opened(try_open(&members, &options).unwrap());
        assert_eq!(found.labels, [Some(0), Some(0)]);
        assert!(found.skipped.contains("class `class2` is not in the class map"), "{}", found.skipped);
    }
}

#[test]
fn json_holds_numbers_names_or_both() {
    for (json, label) in [
        (r#"{"label": 4, "caption": "a cat"}"#, 4),
        (r#"{"cls": "5"}"#, 5),
        (r#"{"class_index": 6.0, "key": "x"}"#, 6),
        (r#"{"class_id": 7}"#, 7),
        (r#"{"target": [8]}"#, 8),
        ("9", 9),
    ] {
        assert_eq!(read(&[("a.json", json), ("a.png", "PNG")]).labels, [Some(label)], "{json}");
    }
    let named =
        |first, second| read(&[("a.png", "PNG"), ("a.json", first), ("b.png", "PNG"), ("b.json", second)]);
    let found =
        named(r#"{"class_index": 1, "class_name": "ant"}"#, r#"{"class_index": 0, "class_name": "bee"}"#);
    assert_eq!((found.classes, found.labels), (vec!["bee".into(), "ant".into()], vec![Some(1), Some(0)]));
    let found = named(r#"{"label": "dog"}"#, r#"{"label_name": "cat"}"#);
    assert_eq!((found.classes, found.labels), (vec!["cat".into(), "dog".into()], vec![Some(1), Some(0)]));
    let found = named(r#"{"label": 0, "class_name": "dog"}"#, r#"{"label": 0, "class_name": "cat"}"#);
    assert!(found.classes.is_empty());
    assert!(found.skipped.contains("class 0 has several names"), "{}", found.skipped);
    // The number of a `.cls` takes the name of the `.json`.
    let found = read(&[("a.cls", "0"), ("a.json", r#"{"class_name": "ant"}"#), ("a.png", "PNG")]);
    assert_eq!((found.classes, found.labels), (vec!["ant".into()], vec![Some(0)]));
}

#[test]
fn cls_is_preferred_to_json_and_json_to_text() {
    let found = read(&[("a.txt", "3"), ("a.json", "2"), ("a.png", "PNG"), ("a.cls", "1")]);
    assert_eq!((found.labels, &*found.skipped), (vec![Some(1)], "labels from `.cls` members"));
    let found = read(&[("a.txt", "3"), ("a.png", "PNG"), ("a.json", "2")]);
    assert_eq!((found.labels, &*found.skipped), (vec![Some(2)], "labels from `.json` members"));
}

#[test]
fn a_sample_without_a_label_is_left_out() {
    let found = read(&[("a.png", "PNG"), ("b.png", "PNG"), ("b.cls", "2"), ("c.cls", "5"), ("._b.cls", "9")]);
    assert_eq!((found.names, found.labels), (vec!["b.png".to_string()], vec![Some(2)]));
    assert!(found.skipped.contains("left out 1: 1 without a label; first a.png"), "{}", found.skipped);
}

#[test]
fn labels_win_over_folders_and_other_companions_change_nothing() {
    let found = read(&[("x/a.png", "PNG"), ("x/a.cls", "1"), ("y/a.png", "PNG"), ("y/a.cls", "0")]);
    assert_eq!(found.labels, [Some(1), Some(0)]);
    let found = read(&[
        ("x/a.png", "PNG"),
        ("x/a.json", r#"{"width": 3}"#),
        ("y/a.1.png", "PNG"),
        ("y/a.2.png", "PNG"),
    ]);
    assert_eq!((found.classes, found.labels.len()), (vec!["x".into(), "y".into()], 3));
}

#[test]
fn captions_and_boxes_are_no_labels() {
    let long = "a photo of a cat ".repeat(10);
    let found = read(&[("a.png", "PNG"), ("a.txt", &long), ("b.png", "PNG"), ("b.txt", "a dog")]);
    assert_eq!(found.labels, [None, None]);
    assert!(found.skipped.contains("captions, not labels: a.txt"), "{}", found.skipped);
    let found = read(&[("cat/a.png", "PNG"), ("cat/a.txt", "0 0.5 0.5 0.2 0.2")]);
    assert_eq!((found.classes, found.labels), (vec!["cat".into()], vec![Some(0)]));
    // Short captions beside class folders.
    let found = read(&[("x/a.png", "PNG"), ("x/a.txt", "one"), ("y/b.png", "PNG"), ("y/b.txt", "two")]);
    assert_eq!((found.classes, found.labels), (vec!["x".into(), "y".into()], vec![Some(0), Some(1)]));
    let names: Vec<String> = (0..1001).flat_map(|at| [format!("{at}.png"), format!("{at}.txt")]).collect();
    let texts: Vec<String> = (0..1001).map(|at| format!("picture number {at}")).collect();
    let members: Members = names
        .iter()
        .enumerate()
        .map(|(at, name)| (&**name, if at % 2 == 0 { "PNG" } else { &*texts[at / 2] }))
        .collect();
    let found = read(&members);
    assert_eq!(found.labels, vec![None; 1001]);
    assert!(found.skipped.contains("1001 differ among 1001 pictures"), "{}", found.skipped);
}

#[test]
fn what_is_no_class_is_refused_by_name() {
    for (kind, text, part) in [
        ("cls", "-1", "label -1 is negative"),
        ("cls", "1.5", "not a whole number"),
        ("cls", "99999999", "more than the limit"),
        ("cls", "1 2", "more than one number"),
        ("cls", "a\nb", "neither a number nor the name"),
        ("json", "{\"label\": -1}", "label -1 is negative"),
        ("json", "{\"label\": [1, 2]}", "`label` holds 2 labels"),
        ("json", "{\"label\": ", "not JSON"),
        ("txt", "-1", "label -1 is negative"),
    ] {
        let name = format!("dir/b.{kind}");
        let error =
            refused(&[("a.png", "PNG"), (&format!("a.{kind}"), "0"), ("dir/b.png", "PNG"), (&name, text)]);
        assert!(error.contains(&format!("member `{name}`")) && error.contains(part), "{error}");
    }
    let error = refused(&[("a.cls", "1"), ("a.png", "PNG"), ("a.cls", "2")]);
    assert!(error.contains("another label of this kind"), "{error}");
    let error = refused(&[("a.left.png", "PNG"), ("a.cls", "0"), ("a.right.png", "PNG")]);
    assert!(error.contains("key `a`: several pictures, the second is `a.right.png`"), "{error}");
}

#[test]
fn a_large_companion_is_not_read() {
    let large = " ".repeat(65 << 10);
    let found = read(&[("a.png", "PNG"), ("a.json", &large), ("a.cls", "3")]);
    assert_eq!(found.labels, [Some(3)]);
    assert!(found.skipped.contains("not read: 1, first a.json"), "{}", found.skipped);
    // One that claims more than the archive holds.
    let root = tempfile::tempdir().unwrap();
    let mut bytes = tar_header("a.cls", 1 << 12, tar::EntryType::Regular).to_vec();
    bytes.extend(shard(&[("a.png", "PNG")]));
    let path = write(root.path(), "set.tar", &bytes);
    assert!(open_dataset(path, &DatasetOptions::default()).is_err());
}

/// Three shards of two samples with the classes `ant`, `bee`, `cat`; keys begin again in every one.
fn shards(root: &Path, name: impl Fn(usize) -> String) {
    for (at, class) in ["cat", "bee", "ant"].into_iter().enumerate() {
        let bytes = shard(&[("0.png", "PNG"), ("0.cls", class), ("1.cls", "bee"), ("1.png", "PNG")]);
        let name = name(at);
        write(root, &name, &if name.ends_with("gz") { gz(&bytes) } else { bytes });
    }
}

#[test]
fn shards_of_a_folder_a_range_and_a_glob_are_one_dataset() {
    let root = tempfile::tempdir().unwrap();
    shards(root.path(), |at| format!("set-{:03}.tar", at + 8));
    write(root.path(), "_index.json", b"{}");
    write(root.path(), "info.json", b"{}");
    let patterns = ["", "set-{008..010}.tar", "set-0{08,09,10}.tar", "set-*.tar", "set-0{0,1}?.tar"];
    for pattern in patterns {
        let found = open(&root.path().join(pattern));
        assert_eq!(found.classes, ["ant", "bee", "cat"], "{pattern}");
        assert_eq!(found.labels, [Some(2), Some(1), Some(1), Some(1), Some(0), Some(1)], "{pattern}");
        assert_eq!(found.names[3], "set-009.tar/1.png");
    }
}

#[test]
fn missing_shards_are_named() {
    let root = tempfile::tempdir().unwrap();
    shards(root.path(), |at| format!("set-{at:03}.tar"));
    std::fs::remove_file(root.path().join("set-001.tar")).unwrap();
    let problem = |pattern| {
        let path = root.path().join(pattern);
        open_dataset(path, &DatasetOptions::default()).err().expect("an error").problem
    };
    let missing = problem("set-{000..004}.tar");
    assert!(matches!(&missing, DatasetProblem::MissingShard { missing: 3, of: 5, .. }), "{missing}");
    assert!(missing.to_string().contains("set-001.tar is missing"), "{missing}");
    assert!(matches!(problem("other-*.tar"), DatasetProblem::NoShards));
    assert!(matches!(problem("set-{0..99999999}.tar"), DatasetProblem::TooLarge { .. }));
    assert!(matches!(problem("set-{0..18446744073709551615}.tar"), DatasetProblem::TooLarge { .. }));
    assert!(matches!(problem("set-{x..y}.tar"), DatasetProblem::Unknown(_)));
    write(root.path(), "set-001.tar", b"");
    assert!(matches!(problem("set-{000..002}.tar"), DatasetProblem::Empty));
}

#[test]
fn names_and_folders_of_shards_say_their_part() {
    let root = tempfile::tempdir().unwrap();
    for (name, label) in
        [("in1k-train-00.tar", "0"), ("in1k-train-01.tar", "1"), ("in1k-validation-00.tar", "0")]
    {
        write(root.path(), &format!("flat/{name}"), &shard(&[("0.png", "PNG"), ("0.cls", label)]));
    }
    shards(root.path(), |at| format!("deep/train/{at}.tar"));
    shards(root.path(), |at| format!("deep/val/{at}.tar.gz"));
    for (folder, train, val) in [("flat", 2, 1), ("deep", 6, 6), ("flat/in1k-*.tar", 2, 1)] {
        let path = root.path().join(folder);
        assert_eq!(splits_of(&path).unwrap(), [Split::Train, Split::Val], "{folder}");
        let count = |split| {
            let options = DatasetOptions { split, ..Default::default() };
            open_dataset(&path, &options).map(|source| source.count().unwrap())
        };
        assert_eq!((count(Some(Split::Train)).unwrap(), count(Some(Split::Val)).unwrap()), (train, val));
        assert!(matches!(count(None).unwrap_err().problem, DatasetProblem::Split { .. }));
        assert!(matches!(count(Some(Split::Test)).unwrap_err().problem, DatasetProblem::Split { .. }));
        let sets = TrainValSets::open(&TrainDataOptions::new(&path)).unwrap();
        assert_eq!((sets.train.len(), sets.val.len()), (train, val));
    }
}

fn subset(path: &Path, sequential: bool) -> Subset {
    let options = TrainSetOptions { sequential, ..Default::default() };
    let set = TrainSet::open(path, &options).unwrap_or_else(|error| panic!("{error}"));
    let all = (0..set.len() as u32).collect();
    Subset::new(Arc::new(set), all)
}

#[test]
fn listed_and_streamed_shards_are_equal() {
    let root = tempfile::tempdir().unwrap();
    shards(root.path(), |at| format!("plain/{at}.tar"));
    shards(root.path(), |at| format!("mixed/{at}.tar{}", if at == 1 { ".gz" } else { "" }));
    let listed = subset(&root.path().join("plain"), false);
    let pictures = |subset: &Subset| -> Vec<_> {
        let set = subset.set();
        (0..set.len() as u32).map(|at| (set.label(at), (*set.image(at).unwrap()).clone())).collect()
    };
    assert!(!listed.set().is_stream());
    assert_eq!(listed.class_counts(), [1, 4, 1]);
    for (folder, sequential) in [("plain", true), ("mixed", false)] {
        let streamed = subset(&root.path().join(folder), sequential);
        assert!(streamed.set().is_stream());
        assert_eq!(pictures(&streamed), pictures(&listed), "{folder}");
        if folder == "plain" {
            assert_eq!(streamed.fingerprint(), listed.fingerprint());
        }
    }
}

#[test]
fn any_number_of_workers_loads_the_same_batches() {
    let root = tempfile::tempdir().unwrap();
    shards(root.path(), |at| format!("{at}.tar"));
    let load = |workers| -> Vec<_> {
        let source = open_dataset(root.path(), &DatasetOptions::default()).unwrap();
        let preprocess = Preprocess { input_size: [3, 16, 16], ..Preprocess::default() };
        let options = LoaderOptions { batch_size: 4, workers, ..Default::default() };
        Loader::new(source, preprocess, options).unwrap().map(Result::unwrap).collect()
    };
    let one = load(1);
    let labels: Vec<_> = one.iter().flat_map(|batch| batch.labels()).collect();
    assert_eq!(labels, [Some(2), Some(1), Some(1), Some(1), Some(0), Some(1)]);
    assert_eq!(load(3), one);
}
