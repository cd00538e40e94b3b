//! Every kind of dataset.

use std::cmp::Ordering;
use std::path::Path;

use vitrum::data::dataset::{
    ClassFolder, ClassMap, DatasetProblem, ImageSource, Sample, Split, natural_order, splits_of,
};
use vitrum::data::{DatasetOptions, DecodeOptions, RgbImage, Source, decode, open_dataset};

use super::decode::real_data;
use super::{gz, png, tar, tar_header, write};

fn open(path: &Path) -> Box<dyn Source> {
    open_dataset(path, &DatasetOptions::default()).unwrap_or_else(|error| panic!("{error}"))
}

fn problem(path: &Path, options: &DatasetOptions) -> DatasetProblem {
    let error = open_dataset(path, options).err().expect("an error");
    assert!(error.to_string().contains(&*path.file_name().unwrap().to_string_lossy()), "{error}");
    error.problem
}

fn all(source: &mut dyn Source) -> Vec<Sample> {
    std::iter::from_fn(|| source.next_sample().unwrap()).collect()
}

fn labels(source: &mut dyn Source) -> Vec<(String, Option<usize>)> {
    all(source).into_iter().map(|sample| (sample.name.clone(), sample.label())).collect()
}

fn pixels(image: ImageSource) -> RgbImage {
    image.decode(&DecodeOptions::default()).unwrap()
}

fn expect(labels: &[(String, Option<usize>)], expected: &[(&str, Option<usize>)]) {
    let found: Vec<(&str, Option<usize>)> =
        labels.iter().map(|(name, label)| (name.as_str(), *label)).collect();
    assert_eq!(found, expected);
}

#[test]
fn natural_order_is_timms() {
    // Python: sorted(names, key=natural_key)
    let mut names = ["b1", "a10", "a2", "A1", "a", "", "10", "9", "a2b10", "a2b9", "z007", "z7a", "a02"];
    names.sort_by(|a, b| natural_order(a, b));
    assert_eq!(names, ["", "9", "10", "a", "A1", "a02", "a2", "a2b9", "a2b10", "a10", "b1", "z007", "z7a"]);
    assert_eq!(natural_order("x", "x"), Ordering::Equal);
}

#[test]
fn folders_of_classes() {
    let root = tempfile::tempdir().unwrap();
    for name in
        ["class10/b.png", "class2/img10.png", "class2/img9.png", "class10/deep/c.png", "class2/notes.txt"]
    {
        write(root.path(), name, &png(1));
    }
    write(root.path(), "stray.png", &png(1));
    let mut source = open(root.path());
    assert_eq!(source.classes(), ["class2", "class10", "deep"]);
    assert_eq!(source.count(), Some(4));
    assert_eq!(source.skipped().first, ["stray.png: not in a class folder"]);
    let expected = [
        ("class2/img9.png", Some(0)),
        ("class2/img10.png", Some(0)),
        ("class10/b.png", Some(1)),
        ("class10/deep/c.png", Some(2)),
    ];
    expect(&labels(&mut *source), &expected);
    let outermost = DatasetOptions { class_folder: ClassFolder::Outermost, ..Default::default() };
    let mut source = open_dataset(root.path(), &outermost).unwrap();
    assert_eq!(source.classes(), ["class2", "class10"]);
    assert_eq!(labels(&mut *source)[3].1, Some(1));
}

#[test]
fn class_maps_number_and_select() {
    let root = tempfile::tempdir().unwrap();
    for name in ["data/cat/1.png", "data/dog/1.png", "data/emu/1.png"] {
        write(root.path(), name, &png(1));
    }
    let file = write(root.path(), "map.txt", b"zebra\nemu\ncat\n");
    let mut map = ClassMap::open(&file).unwrap();
    let options = |map: &ClassMap| DatasetOptions { class_map: Some(map.clone()), ..Default::default() };
    let data = root.path().join("data");
    let mut source = open_dataset(&data, &options(&map)).unwrap();
    assert_eq!(source.classes(), ["zebra", "emu", "cat"]);
    assert_eq!(source.skipped().first, ["dog/1.png: class `dog` is not in the class map"]);
    expect(&labels(&mut *source), &[("cat/1.png", Some(2)), ("emu/1.png", Some(1))]);
    map.add_alias("dog", 0);
    let mut source = open_dataset(&data, &options(&map)).unwrap();
    assert_eq!(labels(&mut *source)[1], ("dog/1.png".into(), Some(0)));
    let none = ClassMap::from_names(["yak".to_string()]);
    assert!(matches!(problem(&data, &options(&none)), DatasetProblem::NoImages(_)));
    let twice = write(root.path(), "twice.txt", b"cat\ncat\n");
    assert!(ClassMap::open(twice).unwrap_err().to_string().contains("`cat` occurs twice"));
}

#[test]
fn splits_must_be_unambiguous() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "train/a/1.png", &png(1));
    write(root.path(), "validation/a/2.png", &png(1));
    let ambiguous = problem(root.path(), &DatasetOptions::default());
    assert!(
        matches!(&ambiguous, DatasetProblem::Split { available, .. } if available == &["train", "validation"])
    );
    let split = |split| DatasetOptions { split: Some(split), ..Default::default() };
    let mut source = open_dataset(root.path(), &split(Split::Val)).unwrap();
    expect(&labels(&mut *source), &[("a/2.png", Some(0))]);
    assert!(matches!(problem(root.path(), &split(Split::Test)), DatasetProblem::Split { .. }));
}

#[test]
fn plain_images_have_no_labels() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "2.png", &png(1));
    write(root.path(), "10.png", &png(1));
    expect(&labels(&mut *open(root.path())), &[("2.png", None), ("10.png", None)]);
    let one = labels(&mut *open(&root.path().join("2.png")));
    assert_eq!((one.len(), one[0].1), (1, None));
    let empty = tempfile::tempdir().unwrap();
    assert!(matches!(problem(empty.path(), &DatasetOptions::default()), DatasetProblem::NoImages(_)));
    let text = write(root.path(), "weights.safetensors", b"not a dataset");
    assert!(matches!(problem(&text, &DatasetOptions::default()), DatasetProblem::Unknown(_)));
    assert!(matches!(
        problem(&root.path().join("absent"), &DatasetOptions::default()),
        DatasetProblem::Io(_)
    ));
}

#[test]
fn tables() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png", "images/a.png"] {
        write(root.path(), name, &png(1));
    }
    let table = |name: &str, text: &str| write(root.path(), name, text.as_bytes());
    let csv = table("t.csv", "file,class_index,wnid,name\na.png,1,n2,dog\nb.png,0,n1,cat\n");
    let mut source = open(&csv);
    assert_eq!(source.classes(), ["n1", "n2"]);
    expect(&labels(&mut *source), &[("a.png", Some(1)), ("b.png", Some(0))]);
    let names = table("n.tsv", "label\tpath\ndog\ta.png\ncat\tb.png\n");
    let mut source = open(&names);
    assert_eq!(source.classes(), ["cat", "dog"]);
    expect(&labels(&mut *source), &[("a.png", Some(1)), ("b.png", Some(0))]);
    let headless = table("h.csv", "a.png, 7\nb.png, 3\n");
    expect(&labels(&mut *open(&headless)), &[("a.png", Some(7)), ("b.png", Some(3))]);
    let list = table("l.txt", "a.png\nb.png\n");
    expect(&labels(&mut *open(&list)), &[("a.png", None), ("b.png", None)]);
    let elsewhere = DatasetOptions { image_dir: Some(root.path().join("images")), ..Default::default() };
    let sample = all(&mut *open_dataset(&headless, &elsewhere).unwrap()).remove(0);
    assert_eq!(
        (pixels(sample.image).width(), pixels(all(&mut *open(&list)).remove(1).image).height()),
        (12, 10)
    );
    let bad = table("bad.csv", "file,class_index\na.png,1\nb.png,minus\n");
    assert!(matches!(problem(&bad, &DatasetOptions::default()), DatasetProblem::Row { line: 3, .. }));
    let uneven = table("uneven.csv", "file,class_index\na.png,1\nb.png\n");
    assert!(matches!(problem(&uneven, &DatasetOptions::default()), DatasetProblem::Row { line: 3, .. }));
    let empty = table("empty.csv", "");
    assert!(matches!(problem(&empty, &DatasetOptions::default()), DatasetProblem::Empty));
    let header = table("header.csv", "file,class_index\n");
    assert!(matches!(problem(&header, &DatasetOptions::default()), DatasetProblem::NoImages(_)));
}

#[test]
fn tars_are_streamed() {
    let root = tempfile::tempdir().unwrap();
    let (a, b, c) = (png(1), png(2), png(3));
    let long = format!("train/{}/1.png", "x".repeat(200));
    let mut bytes =
        tar(&[("./train/dog/1.png", &a), ("train/cat/10.png", &b), ("train/cat/readme.txt", b"hello")]);
    bytes.truncate(bytes.len() - 1024);
    bytes.extend(tar_header("././@LongLink", long.len() as u64, tar::EntryType::GNULongName));
    bytes.extend_from_slice(long.as_bytes());
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes.extend(tar(&[("train/xxx", &c)]));
    for (name, bytes) in [("set.tar", bytes.clone()), ("set.tar.gz", gz(&bytes))] {
        let path = write(root.path(), name, &bytes);
        let mut source = open(&path);
        assert_eq!(source.classes(), ["cat", "dog", &"x".repeat(200)]);
        assert_eq!(source.count(), Some(3));
        let samples = all(&mut *source);
        let found: Vec<_> = samples.iter().map(|s| (s.name.as_str(), s.label())).collect();
        assert_eq!(found, [("train/dog/1.png", Some(1)), ("train/cat/10.png", Some(0)), (&long, Some(2))]);
        let direct = decode::decode(&b, &DecodeOptions::default()).unwrap();
        assert_eq!(pixels(samples[1].image.clone()), direct);
    }
}

#[test]
fn tars_with_several_splits() {
    let root = tempfile::tempdir().unwrap();
    let bytes = tar(&[("set/train/a/1.png", &png(1)), ("set/val/a/2.png", &png(2))]);
    let path = write(root.path(), "set.tar", &bytes);
    assert!(matches!(problem(&path, &DatasetOptions::default()), DatasetProblem::Split { .. }));
    let options = DatasetOptions { split: Some(Split::Val), ..Default::default() };
    let mut source = open_dataset(&path, &options).unwrap();
    expect(&labels(&mut *source), &[("set/val/a/2.png", Some(0))]);
}

#[test]
fn wicked_tar_members_are_refused_by_name() {
    let root = tempfile::tempdir().unwrap();
    let image = png(1);
    let mut bytes = Vec::new();
    for (name, kind) in [
        ("a/link.png", tar::EntryType::Symlink),
        ("a/hard.png", tar::EntryType::Link),
        ("a/pipe.png", tar::EntryType::Fifo),
    ] {
        bytes.extend(tar_header(name, 0, kind));
    }
    bytes.extend(tar(&[
        ("a/../../etc/1.png", &image),
        ("/etc/2.png", &image),
        ("a\\..\\3.png", &image),
        ("a/good.png", &image),
    ]));
    let path = write(root.path(), "wicked.tar", &bytes);
    let mut source = open(&path);
    expect(&labels(&mut *source), &[("a/good.png", Some(0))]);
    assert_eq!(source.skipped().count, 6);
    for name in ["link", "hard", "pipe", "1.png", "2.png", "3.png"] {
        assert!(source.skipped().first.iter().any(|skipped| skipped.contains(name)), "{name}");
    }
    // A member that claims more than there is, a name too long for any sensible archive, and a second size.
    let reaching = tar_header("a/1.png", 1 << 40, tar::EntryType::Regular).to_vec();
    let long = tar_header("././@LongLink", 1 << 30, tar::EntryType::GNULongName).to_vec();
    let mut pax = tar_header("pax", 18, tar::EntryType::XHeader).to_vec();
    pax.extend(b"18 size=123456789\n");
    pax.resize(1024, 0);
    pax.extend(tar(&[("a/1.png", &image)]));
    for (name, bytes) in [("reaching.tar", reaching), ("long.tar", long), ("pax.tar", pax)] {
        for (name, bytes) in [(name.to_string(), bytes.clone()), (format!("{name}.gz"), gz(&bytes))] {
            let path = write(root.path(), &name, &bytes);
            let result =
                open_dataset(&path, &DatasetOptions::default()).and_then(|mut source| source.next_sample());
            let error = result.expect_err(&name);
            assert!(matches!(error.problem, DatasetProblem::Damaged(_)), "{error}");
            assert!(error.to_string().contains(&name), "{error}");
        }
    }
}

fn idx(magic: u8, sizes: &[u32], content: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0, 0, 8, magic];
    bytes.extend(sizes.iter().flat_map(|size| size.to_be_bytes()));
    bytes.extend_from_slice(content);
    bytes
}

#[test]
fn mnist_pairs() {
    let root = tempfile::tempdir().unwrap();
    let images = idx(3, &[2, 2, 3], &[0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 14, 255]);
    let labels_file = idx(1, &[2], &[7, 0]);
    write(root.path(), "t10k-images-idx3-ubyte.gz", &gz(&images));
    write(root.path(), "t10k-labels-idx1-ubyte.gz", &gz(&labels_file));
    write(root.path(), "train-images-idx3-ubyte", &images);
    write(root.path(), "train-labels-idx1-ubyte", &idx(1, &[3], &[7, 0, 1]));
    let mut source = open(root.path());
    assert_eq!((source.count(), source.classes().len()), (Some(2), 10));
    let samples = all(&mut *source);
    assert_eq!([samples[0].label(), samples[1].label()], [Some(7), Some(0)]);
    let second = pixels(samples[1].image.clone());
    assert_eq!((second.width(), second.height(), second.pixel(2, 1)), (3, 2, Some([255; 3])));
    let train = DatasetOptions { split: Some(Split::Train), ..Default::default() };
    let error = open_dataset(root.path(), &train).err().unwrap();
    assert!(error.to_string().contains("3 labels for 2 images"), "{error}");
    let alone = write(root.path(), "digits", &images[..22]);
    let mut source = open(&alone);
    assert!(source.next_sample().unwrap().is_some_and(|sample| sample.label().is_none()));
    assert!(source.next_sample().unwrap_err().to_string().contains("record 1 of 2"));
    let huge = write(root.path(), "huge", &idx(3, &[1, 1 << 30, 1 << 30], &[]));
    assert!(matches!(problem(&huge, &DatasetOptions::default()), DatasetProblem::Damaged(_)));
}

fn cifar(labels: &[u8], level: u8) -> Vec<u8> {
    let planes = [[level; 1024], [level + 1; 1024], [level + 2; 1024]].concat();
    [labels, &planes].concat()
}

#[test]
fn cifar_folders_and_archives() {
    let root = tempfile::tempdir().unwrap();
    let test = [cifar(&[3], 10), cifar(&[9], 20)].concat();
    write(root.path(), "ten/cifar-10-batches-bin/test_batch.bin", &test);
    write(root.path(), "ten/cifar-10-batches-bin/data_batch_1.bin", &cifar(&[1], 30));
    let mut source = open(&root.path().join("ten"));
    assert_eq!(source.classes()[9], "truck");
    let samples = all(&mut *source);
    assert_eq!([samples[0].label(), samples[1].label()], [Some(3), Some(9)]);
    assert_eq!(pixels(samples[1].image.clone()).pixel(31, 31), Some([20, 21, 22]));
    let train = DatasetOptions { split: Some(Split::Train), ..Default::default() };
    let mut source = open_dataset(root.path().join("ten"), &train).unwrap();
    assert_eq!(all(&mut *source)[0].label(), Some(1));
    let names: String = (0..100).map(|class| format!("class{class}\n")).collect();
    let hundred = cifar(&[5, 99], 40);
    let members: [(&str, &[u8]); 2] = [
        ("cifar-100-binary/test.bin", &hundred),
        ("cifar-100-binary/fine_label_names.txt", names.as_bytes()),
    ];
    let path = write(root.path(), "cifar-100.tar.gz", &gz(&tar(&members)));
    let mut source = open(&path);
    assert_eq!((source.count(), source.classes()[99].as_str()), (Some(1), "class99"));
    assert_eq!(all(&mut *source)[0].label(), Some(99));
    let short = write(root.path(), "short/test_batch.bin", &test[..4000]);
    assert!(matches!(problem(&short, &DatasetOptions::default()), DatasetProblem::Damaged(_)));
    let label = write(root.path(), "label/test_batch.bin", &cifar(&[10], 1));
    let error = open(&label).next_sample().unwrap_err();
    assert!(error.to_string().contains("label 10, expected less than 10"), "{error}");
}

#[test]
fn real_archive_of_fifty_thousand_images() {
    let Some(path) = real_data("cifar10-train.tar") else { return };
    let mut source = open(&path);
    assert_eq!((source.count(), source.classes().len()), (Some(50_000), 10));
    let first = source.next_sample().unwrap().unwrap();
    assert_eq!(pixels(first.image).width(), 32);
    assert_eq!(1 + all(&mut *source).len(), 50_000);
}

#[test]
fn real_table_of_photos() {
    let Some(path) = real_data("imagenet-sample") else { return };
    let options = DatasetOptions { image_dir: Some(path.join("images")), ..Default::default() };
    let mut source = open_dataset(path.join("labels.csv"), &options).unwrap();
    let samples = all(&mut *source);
    assert_eq!(samples.len(), 200);
    assert!(samples.iter().all(|sample| sample.label().is_some()));
    assert!(pixels(samples[0].image.clone()).width() > 32);
}

#[test]
fn tables_as_people_bring_them_are_read_or_refused_by_line() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "a/1.png", &png(1));
    for text in [
        "image_path;ClassId\na\\1.png;1.0\n",
        "ClassId,Path\n1,a/1.png\n",
        "a/1.png 1\n",
        "\u{feff}file,label\r\na/1.png,1\r\n",
    ] {
        let mut source = open(&write(root.path(), "t.csv", text.as_bytes()));
        assert_eq!(source.next_sample().unwrap().unwrap().label(), Some(1), "{text}");
    }
    for (text, says) in
        [("where,label\na/1.png,x\n", "no column of paths"), ("file,label\na/1.png,-1\n", "line 2")]
    {
        let path = write(root.path(), "t.csv", text.as_bytes());
        let error = open_dataset(&path, &DatasetOptions::default()).map(drop).unwrap_err().to_string();
        assert!(error.contains(says), "{error}");
    }
}

#[test]
fn a_table_whose_images_are_elsewhere_is_refused() {
    let root = tempfile::tempdir().unwrap();
    write(root.path(), "pictures/a.png", &png(1));
    let path = write(root.path(), "t.csv", b"file,label\na.png,0\nb.png,1\n");
    let error = open_dataset(&path, &DatasetOptions::default()).map(drop).unwrap_err().to_string();
    assert!(error.contains("none of its images is in") && error.contains("the first is a.png"), "{error}");
    // One image of two is enough: the other one counts as unreadable.
    let image_dir = Some(root.path().join("pictures"));
    let options = DatasetOptions { image_dir, ..Default::default() };
    assert_eq!(labels(&mut *open_dataset(&path, &options).unwrap()).len(), 2);
}

#[test]
fn a_column_of_parts_says_which_rows_are_wanted() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a.png", "b.png", "c.png"] {
        write(root.path(), name, &png(1));
    }
    let rows = "r1,a.png,x,train\nr2,b.png,y,Test\nr3,c.png,z,train\n";
    // The names of the rows are R's.
    let path = write(root.path(), "t.csv", format!("file,label,split\n{rows}").as_bytes());
    assert_eq!(splits_of(&path).unwrap(), [Split::Train, Split::Test]);
    let of = |split| DatasetOptions { split: Some(split), ..Default::default() };
    let mut source = open_dataset(&path, &of(Split::Train)).unwrap();
    assert_eq!(source.classes(), ["x", "z"]);
    assert_eq!(source.skipped().to_string(), "2 of 3 rows are of part `train`, by column `split`");
    expect(&labels(&mut *source), &[("a.png", Some(0)), ("c.png", Some(1))]);
    expect(&labels(&mut *open_dataset(&path, &of(Split::Test)).unwrap()), &[("b.png", Some(0))]);
    assert!(matches!(
        problem(&path, &of(Split::Val)),
        DatasetProblem::Split { available, .. } if available == ["train", "test"]
    ));
    assert!(matches!(problem(&path, &DatasetOptions::default()), DatasetProblem::Split { .. }));

    // One part alone need not be chosen, and it is no label.
    let path = write(root.path(), "one.csv", b"file,subset\na.png,test\nb.png,test\n");
    assert_eq!(splits_of(&path).unwrap(), [Split::Test]);
    expect(&labels(&mut *open(&path)), &[("a.png", None), ("b.png", None)]);
    // A row of another length is refused, whatever part is wanted.
    let path = write(root.path(), "t.csv", b"file,label,split\na.png,x,train\nb.png,y\n");
    assert!(matches!(problem(&path, &of(Split::Train)), DatasetProblem::Row { line: 3, .. }));
    for text in
        ["file,label,part\na.png,x,arm\n", "file,label\na.png,x\n", "a.png\nb.png\n", "file,label,split\n"]
    {
        assert_eq!(splits_of(write(root.path(), "t.csv", text.as_bytes())).unwrap(), [], "{text}");
    }
}

#[test]
fn hidden_folders_are_no_classes_and_no_splits() {
    let root = tempfile::tempdir().unwrap();
    for name in ["a/1.png", "b/2.png", "a/._1.png", ".ipynb_checkpoints/3.png", "__MACOSX/a/4.png"] {
        write(root.path(), name, &png(1));
    }
    let source = open(root.path());
    assert_eq!(source.classes(), ["a", "b"]);
    assert_eq!(source.skipped().count, 3);
}

#[test]
fn class_maps_in_every_form_name_the_same_classes() {
    let root = tempfile::tempdir().unwrap();
    let same = [
        "\u{feff}a\nb\n\n",
        "0 a\n1 b\n",
        "b,1\na,0\n",
        "{\"b\": 1, \"a\": 0}",
        "{\"id2label\": {\"0\": \"a\", \"1\": \"b\"}}",
    ];
    for text in same {
        let path = write(root.path(), "map.txt", text.as_bytes());
        assert_eq!(ClassMap::open(&path).unwrap().names(), ["a", "b"], "{text}");
    }
    let blank = ClassMap::open(write(root.path(), "map.txt", b"a\n\nb\n")).unwrap_err().to_string();
    assert!(blank.contains("line 2 is blank"), "{blank}");
}

#[test]
fn labels_of_imagenet_know_their_wordnet_ids() {
    let map = ClassMap::of_labels(&vitrum::checkpoint::imagenet::names());
    assert_eq!((map.get("n01440764"), map.get("Tench"), map.get("crane")), (Some(0), Some(0), None));
}
