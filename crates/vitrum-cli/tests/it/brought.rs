//! Data as people bring it: the right answer, or a refusal that names what is wrong.

use serde_json::Value;
use vitrum::data::demo::CLASSES;

use crate::sandbox::Sandbox;

/// `pics`: four drawn pictures of each of the demo set's classes, in class folders.
fn drawn() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.ok("demo pics --count 40 --size 32");
    sandbox
}

/// What `val` says of `data` as JSON, and on stderr.
fn val(sandbox: &Sandbox, data: &str) -> (Value, String) {
    let ran = sandbox.ok(&format!("val {data} -m model --format json"));
    (ran.json(), ran.err)
}

/// A table of all pictures; `line` makes a row of file, class name and class number.
fn table(header: &str, line: impl Fn(&str, &str, usize) -> String) -> String {
    let rows = (0..40).map(|i| {
        let (class, number) = (CLASSES[i % 10], i % 10);
        line(&format!("pics/{class}/{i:06}.png"), class, number)
    });
    std::iter::once(header.to_string()).filter(|h| !h.is_empty()).chain(rows).collect::<Vec<_>>().join("\n")
        + "\n"
}

#[test]
fn tables_in_every_form_give_the_accuracy_of_the_folder() {
    let sandbox = drawn();
    let (expected, _) = val(&sandbox, "pics");
    let forms: [(&str, String); 12] = [
        ("plain.csv", table("file,label", |file, class, _| format!("{file},{class}"))),
        ("named.csv", table("image_path,label", |file, class, _| format!("{file},{class}"))),
        ("float.csv", table("file,label", |file, _, number| format!("{file},{number}.0"))),
        ("semi.csv", table("file;label", |file, class, _| format!("{file};{class}"))),
        (
            "excel.csv",
            format!("sep=;\r\n{}", table("file;label", |file, class, _| format!("{file};{class}"))),
        ),
        ("bom.csv", format!("\u{feff}{}", table("file,label", |file, class, _| format!("{file},{class}")))),
        ("kaggle.csv", table("ClassId,Path", |file, _, number| format!("{number},{file}"))),
        ("ids.csv", table("id,label", |file, class, _| format!("{},{class}", file.trim_end_matches(".png")))),
        ("pandas.csv", table(",file,label", |file, class, number| format!("{number},{file},{class}"))),
        ("r.csv", table("\"file\",\"label\"", |file, class, n| format!("\"{n}\",\"{file}\",\"{class}\""))),
        ("windows.csv", table("file,label", |file, class, _| format!("{},{class}", file.replace('/', "\\")))),
        ("list.txt", table("", |file, _, number| format!("{file} {number}"))),
    ];
    for (name, text) in forms {
        sandbox.write(name, text);
        let (found, err) = val(&sandbox, name);
        assert_eq!(found["images"], expected["images"], "{name}: {err}");
        assert_eq!(found["top1"], expected["top1"], "{name}: {err}");
        // The rows are in another order than the files of the folder, and so is the sum.
        let loss = |of: &Value| of["loss"].as_f64().expect("a loss");
        assert!((loss(&found) - loss(&expected)).abs() < 1e-9, "{name}: {err}");
    }
}

#[test]
fn tables_without_a_right_answer_are_refused_by_line() {
    let sandbox = drawn();
    let one_hot =
        table("image,disc,ring", |file, _, number| format!("{file},{},{}", number % 2, 1 - number % 2));
    let cases: [(&str, String, &[&str]); 5] = [
        ("header.csv", table("quux,label", |file, class, _| format!("{file},{class}")), &["quux", "`file`"]),
        (
            "negative.csv",
            table("file,label", |file, _, n| format!("{file},{}", n as i64 - 1)),
            &["line 2", "-1"],
        ),
        ("half.csv", table("file,label", |file, _, _| format!("{file},0.5")), &["line 2", "0.5"]),
        ("hot.csv", one_hot, &["a column for each class", "disc, ring"]),
        (
            "ragged.csv",
            "file,label\npics/disc/000000.png,disc,extra\npics/ring/000001.png,ring\n".into(),
            &["line 2", "3 columns"],
        ),
    ];
    for (name, text, says) in cases {
        sandbox.write(name, text);
        sandbox.fails(&format!("val {name} -m model"), 1, says);
    }
}

/// A table whose last ten rows are for validation.
fn parted(header: &str, parts: [&str; 2], line: impl Fn(&str, &str, usize) -> String) -> String {
    let part = |file: &str| parts[usize::from(file.contains("/00003"))];
    table(header, |file, class, number| format!("{},{}", line(file, class, number), part(file)))
}

#[test]
fn a_column_of_parts_chooses_the_rows() {
    let sandbox = drawn();
    let rows = parted("file,label,part", ["train", "val"], |file, class, _| format!("{file},{class}"));
    let only_val: Vec<&str> = rows.lines().filter(|line| !line.ends_with(",train")).collect();
    sandbox.write("only.csv", only_val.join("\n").replace(",val", "").replace(",part", ""));
    let (expected, _) = val(&sandbox, "only.csv");
    assert_eq!(expected["images"], 10);
    for (header, parts, column) in [
        ("file,label,part", ["train", "val"], "part"),
        ("image,label,split", ["Training", "Validation"], "split"),
        ("filepaths,labels,data set", ["train", "valid"], "data set"),
    ] {
        sandbox.write("t.csv", parted(header, parts, |file, class, _| format!("{file},{class}")));
        sandbox.fails("val t.csv -m model", 1, &["several splits", "train, val"]);
        sandbox.fails("val t.csv --split test -m model", 1, &["no split `test`", "train, val"]);
        let (found, err) = val(&sandbox, "t.csv --split val");
        assert!(err.contains(&format!("10 of 40 rows are of part `val`, by column `{column}`")), "{err}");
        for key in ["images", "top1", "loss"] {
            assert_eq!(found[key], expected[key], "{header}: {key}");
        }
        let (train, _) = val(&sandbox, "t.csv --split train");
        assert_eq!(train["images"], 30, "{header}");
    }
    // Words that are no parts are any column's words.
    let arms = parted("file,label,part", ["arm", "leg"], |file, class, _| format!("{file},{class}"));
    sandbox.write("arms.csv", arms);
    assert_eq!(val(&sandbox, "arms.csv").0["images"], 40);
    let halves = parted("file,label,split", ["A", "B"], |file, class, _| format!("{file},{class}"));
    sandbox.write("halves.csv", halves);
    let (found, err) = val(&sandbox, "halves.csv");
    assert!(found["images"] == 40 && err.contains("column `split` names no parts (`A`)"), "{err}");
    // A table without such a column has no parts to choose from, which is said.
    let (found, err) = val(&sandbox, "only.csv --split val");
    assert!(found["images"] == 10 && err.contains("no column names the part `val`"), "{err}");
}

#[test]
fn unclear_parts_are_refused() {
    let sandbox = drawn();
    let write = |header: &str, parts: [&str; 2]| {
        sandbox.write("t.csv", parted(header, parts, |file, class, _| format!("{file},{class}")));
    };
    write("file,label,split", ["train", "holdout"]);
    sandbox.fails("val t.csv -m model", 1, &["line 32", "`holdout` in column `split`"]);
    write("file,label,part", ["train", ""]);
    sandbox.fails("val t.csv -m model", 1, &["line 32", "`` in column `part`"]);
    write("image_id,label,partition", ["0", "1"]);
    for command in ["val t.csv -m model", "train t.csv -m test_vit", "data check t.csv"] {
        sandbox.fails(command, 1, &["line 1", "column `partition` has numbers", "hint:"]);
    }
}

#[test]
fn the_table_of_a_split_is_trained_by_its_parts() {
    let sandbox = drawn();
    sandbox.ok("data split pics --val-fraction 0.25 --seed 3 --output all.csv");
    let checked = sandbox.ok("data check all.csv --image-dir pics --strict --format json").json();
    let parts: Vec<(Option<&str>, Option<u64>)> = checked["parts"]
        .as_array()
        .expect("parts")
        .iter()
        .map(|part| (part["part"].as_str(), part["images"].as_u64()))
        .collect();
    assert_eq!(parts, [(Some("train"), Some(30)), (Some("val"), Some(10))]);
    let short = "-m test_vit --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=1 num_heads=2 --epochs 1 -b 8";
    let ran = sandbox.ok(&format!("train all.csv --image-dir pics {short} --experiment table"));
    for says in
        ["validation on the part `val` of all.csv", "30 of 40 rows are of part `train`, by column `part`"]
    {
        assert!(ran.err.contains(says), "{}", ran.err);
    }
    // The same pictures as two tables.
    sandbox.ok("data split pics --val-fraction 0.25 --seed 3 --output-dir two");
    let two = "two/train.csv --val-data two/val.csv --image-dir pics";
    sandbox.ok(&format!("train {two} {short} --experiment two"));
    let [table, two] = ["table", "two"].map(|run| sandbox.read(&format!("runs/classify/{run}/summary.csv")));
    assert_eq!(table, two);
    sandbox.fails("data split all.csv --image-dir pics -o b.csv", 1, &["split already, into train, val"]);
}

#[test]
fn class_numbers_with_gaps_are_not_trained_unless_they_are_wanted() {
    let sandbox = drawn();
    sandbox.write("gaps.csv", table("file,label", |file, _, number| format!("{file},{}", 2 * number + 1)));
    let train = "train gaps.csv -m test_vit --img-size 32 --model-kwargs patch_size=8 embed_dim=16 depth=1 num_heads=2 \
         --epochs 1 -b 8 --experiment run";
    sandbox.fails(train, 1, &["10 of 20 classes have no training image", "`0`, `2`"]);
    let ran = sandbox.ok(&format!("{train} --num-classes 20"));
    assert!(ran.err.contains("10 of 20 classes have no training image"), "{}", ran.err);
}

#[test]
fn classes_the_model_does_not_have_are_left_out_by_name() {
    let sandbox = drawn();
    let (all, _) = val(&sandbox, "pics");
    std::fs::create_dir(sandbox.path("pics/zebra")).expect("a folder");
    sandbox.picture("pics/zebra/1.png", 1);
    std::fs::remove_dir_all(sandbox.path("pics/disc")).expect("a folder");
    let (found, err) = val(&sandbox, "pics");
    assert_eq!(found["images"].as_u64(), Some(36), "{err}");
    assert!(err.contains("zebra"), "{err}");
    assert!(found["left_out"]["count"].as_u64() == Some(1) && all["images"].as_u64() == Some(40));
    let right =
        |json: &Value| json["top1"].as_f64().expect("a number") * json["images"].as_f64().expect("a number");
    assert!(right(&found) <= right(&all) + 1e-6, "numbers are those of the model: {found} {all}");
    std::fs::remove_dir_all(sandbox.path("pics")).expect("a folder");
    for class in ["x", "y"] {
        std::fs::create_dir_all(sandbox.path(format!("pics/{class}"))).expect("a folder");
        sandbox.picture(format!("pics/{class}/1.png").as_str(), 1);
    }
    sandbox.fails("val pics -m model", 1, &["2 classes (x, y)", "--class-map"]);
}

#[test]
fn hidden_and_system_folders_are_neither_classes_nor_parts() {
    let sandbox = drawn();
    std::fs::create_dir_all(sandbox.path("parts")).expect("a folder");
    for part in ["train", "val"] {
        sandbox.ok(&format!("demo parts/{part} --count 20 --size 32"));
    }
    for foreign in [".git", ".ipynb_checkpoints", "__MACOSX", "@eaDir", "$RECYCLE.BIN"] {
        let folder = sandbox.path(format!("parts/{foreign}"));
        std::fs::create_dir(&folder).expect("a folder");
        sandbox.picture(format!("parts/{foreign}/x.png").as_str(), 1);
        sandbox.fails("val parts -m model", 1, &["several splits"]);
        std::fs::rename(&folder, sandbox.path(format!("pics/{foreign}"))).expect("a move");
    }
    let (found, err) = val(&sandbox, "pics");
    assert_eq!((found["images"].as_u64(), found["left_out"]["count"].as_u64()), (Some(40), Some(5)), "{err}");
    assert!(err.contains("left out 5") && err.contains("hidden"), "{err}");
    let predicted = sandbox.ok("predict pics -m model --format json").json();
    assert_eq!(predicted.as_array().map(Vec::len), Some(40));
    let check = sandbox.ok("data check pics --format json").json();
    assert_eq!(check["counts"]["left-out"].as_u64(), Some(5), "{check:#}");
}

#[test]
fn class_maps_are_read_by_one_reader_and_must_fit() {
    let sandbox = drawn();
    let names = CLASSES.join("\n");
    let (expected, _) = val(&sandbox, "pics");
    let numbered: Vec<String> = CLASSES.iter().enumerate().map(|(n, class)| format!("{n},{class}")).collect();
    let object: Vec<String> =
        CLASSES.iter().enumerate().map(|(n, class)| format!("\"{class}\": {n}")).collect();
    let forms = [
        ("bom.txt", format!("\u{feff}{}\r\n", CLASSES.join("\r\n"))),
        ("numbered.csv", numbered.join("\n")),
        ("keras.json", format!("{{{}}}", object.join(", "))),
    ];
    for (name, text) in forms {
        sandbox.write(name, text);
        let ran = sandbox.ok(&format!("val pics -m model --class-map {name} --format json"));
        assert_eq!(ran.json()["top1"], expected["top1"], "{name}");
        let answer =
            sandbox.ok(&format!("predict pics/disc/000000.png -m model --class-map {name} --format json"));
        let label = answer.json()[0]["predictions"][0]["label"].as_str().map(String::from).expect("a label");
        assert!(CLASSES.contains(&label.as_str()), "{name}: {label}");
    }
    sandbox.write("few.txt", "a\nb\n");
    sandbox.fails(
        "predict pics/disc/000000.png -m model --class-map few.txt",
        1,
        &["few.txt", "2 classes", "10"],
    );
    sandbox.write("blank.txt", names.replacen('\n', "\n\n", 1));
    for verb in ["predict pics/disc/000000.png", "val pics"] {
        sandbox.fails(&format!("{verb} -m model --class-map blank.txt"), 1, &["line 2"]);
    }
}

#[cfg(unix)]
#[test]
fn links_are_followed_and_names_keep_their_bytes() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let sandbox = drawn();
    std::fs::create_dir(sandbox.path("linked")).expect("a folder");
    std::os::unix::fs::symlink(sandbox.path("pics/disc"), sandbox.path("linked/disc")).expect("a link");
    assert_eq!(sandbox.ok("predict linked -m model --format json").json().as_array().map(Vec::len), Some(4));
    let odd = sandbox.path("pics/disc").join(OsStr::from_bytes(b"\xff.png"));
    std::fs::rename(sandbox.path("pics/disc/000000.png"), odd).expect("a file system with bytes for names");
    sandbox.fails("data split pics -o split.csv", 1, &["UTF-8"]);
}

#[test]
fn data_of_other_programs_is_named() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("cifar-10-batches-py")).expect("a folder");
    for name in ["batches.meta", "data_batch_1"] {
        sandbox.write(format!("cifar-10-batches-py/{name}"), b"\x80\x02}q");
    }
    sandbox.write("x.zip", b"PK\x03\x04rest of it");
    sandbox.write("x.parquet", b"PAR1rest of it");
    sandbox.write("x.xlsx", b"PK\x03\x04rest of it");
    sandbox.write("x.mat", b"MATLAB 5.0 MAT-file");
    for (data, says) in [
        ("cifar-10-batches-py", "pickles"),
        ("x.zip", "a zip archive"),
        ("x.parquet", "a Parquet file"),
        ("x.xlsx", "a spreadsheet"),
        ("x.mat", "a MATLAB file"),
    ] {
        sandbox.fails(&format!("val {data} -m model"), 1, &[data, says, "hint:"]);
    }
}

#[test]
fn a_damaged_picture_that_is_read_is_told() {
    let sandbox = drawn();
    let whole = std::fs::read(sandbox.path("pics/disc/000000.png")).expect("a picture");
    sandbox.write("cut.png", &whole[..whole.len() - 12]); // without IEND
    let ran = sandbox.ok("predict cut.png -m model --format json");
    assert!(ran.err.contains("cut.png: ") && ran.err.contains("end chunk"), "{}", ran.err);
    assert!(ran.json()[0]["notes"][0].as_str().is_some_and(|note| note.contains("end chunk")));
    sandbox.write("none.png", "no picture");
    let ran = sandbox.ends("predict cut.png none.png -m model --format json", 1);
    let answers = ran.json();
    let errors: Vec<&str> =
        answers.as_array().expect("a list").iter().filter_map(|a| a["error"].as_str()).collect();
    assert!(errors.len() == 1 && errors[0].contains("none.png"), "{ran:?}");
}
