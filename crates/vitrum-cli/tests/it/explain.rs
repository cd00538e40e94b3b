//! `vitrum explain`.

use crate::sandbox::Sandbox;

fn names(sandbox: &Sandbox, folder: &str) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.path(folder)).expect("a folder of results");
    let mut names: Vec<String> =
        entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[test]
fn all_that_a_model_has() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.picture("b.png", 2);
    let told = sandbox.ok("explain a.png b.png -m model --method all --steps 4 -o out --format json").json();
    let rows = told.as_array().expect("a row for each image and the model");
    assert_eq!(rows.len(), 3);
    assert!(rows[0]["target"]["prob"].as_f64().is_some_and(|prob| prob > 0.0 && prob <= 1.0), "{told}");
    assert_eq!(
        names(&sandbox, "out"),
        [
            "a-attention.png",
            "a.json",
            "a.png",
            "b-attention.png",
            "b.json",
            "b.png",
            "distances.json",
            "distances.png",
            "filters.png",
            "index.html",
            "positions.png"
        ]
    );
    let numbers: serde_json::Value = serde_json::from_str(&sandbox.read("out/a.json")).expect("JSON");
    for method in ["rollout", "relevance", "grad_cam", "integrated_gradients", "occlusion", "similarity"] {
        let map = &numbers["maps"][method];
        let [rows, columns] = [0, 1].map(|at| map["grid"][at].as_u64().expect("a grid"));
        assert_eq!(map["values"].as_array().map(Vec::len), Some((rows * columns) as usize), "{method}");
    }
    let rollout = numbers["maps"]["rollout"]["values"].as_array().expect("numbers");
    let sum: f64 = rollout.iter().map(|value| value.as_f64().expect("a number")).sum();
    assert!(sum > 0.0 && sum < 1.0, "the class token keeps a share: {sum}");
    assert!(numbers["attention"].as_array().is_some_and(|layers| !layers.is_empty()));
    let page = sandbox.read("out/index.html");
    assert!(page.contains("data:image/png;base64,") && page.contains("type=\"range\""));
    assert!(!page.contains("http://") && !page.contains("https://"), "the page needs no other file");
    for picture in ["a.png", "a-attention.png", "filters.png", "positions.png", "distances.png"] {
        let picture = image::open(sandbox.path(format!("out/{picture}"))).expect("a picture");
        assert!(picture.width() > 100 && picture.height() > 60);
    }
}

/// A signal ends the command before its next pass. Every file that is there is whole.
#[cfg(unix)]
#[test]
fn a_signal_stops_it() {
    let sandbox = Sandbox::new();
    std::fs::create_dir(sandbox.path("many")).expect("a folder");
    for at in 0..60 {
        sandbox.picture(&format!("many/{at:02}.png"), at);
    }
    let args = "explain many -m model --method occlusion --window 2x2 --stride 1x1 -b 1 -o out";
    let mut child = sandbox.command(args.split_whitespace()).spawn().expect("a process");
    while !sandbox.has("out/00.json") {
        assert!(child.try_wait().expect("a process").is_none(), "it ended before the signal");
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let killed = std::process::Command::new("kill").arg(child.id().to_string()).status();
    assert!(killed.expect("kill").success());
    assert_eq!(child.wait().expect("an end").code(), Some(75));
    let names = names(&sandbox, "out");
    assert!(names.len() < 60 && !names.contains(&"index.html".to_string()), "{names:?}");
    for name in names {
        let path = format!("out/{name}");
        match name.ends_with(".json") {
            true => drop(serde_json::from_str::<serde_json::Value>(&sandbox.read(&path)).expect("JSON")),
            false => drop(image::open(sandbox.path(path)).expect("a picture")),
        }
    }
}

#[test]
fn classes_and_files_that_are_there() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    std::fs::create_dir(sandbox.path("other")).unwrap();
    sandbox.picture("other/a.png", 2);
    let first = "explain a.png other/a.png -m model --method grad-cam --target 1 --format csv";
    let rows = sandbox.ok(first).csv();
    let files: Vec<&str> = rows.iter().map(|row| row["file"].as_str()).collect();
    assert_eq!(files, ["explained/a.json", "explained/a.png", "explained/a-2.json", "explained/a-2.png"]);
    let class = rows[0]["class"].clone();
    assert!(rows.iter().all(|row| row["class"] == class));
    let before = sandbox.read("explained/a.json");
    sandbox.fails(first, 1, &["exists already", "--overwrite"]);
    let by_name =
        format!("explain a.png other/a.png -m model --method grad-cam --target {class} --overwrite");
    sandbox.ok(&by_name);
    assert_eq!(sandbox.read("explained/a.json"), before);
    sandbox.fails("explain a.png -m model -o x --target gibberish", 1, &["no class 'gibberish'"]);
    sandbox.fails("explain a.png -m model -o x --target 99", 1, &["no class '99'", "0 to 9"]);
    assert!(!sandbox.has("x"), "nothing is written before the flags are checked");
}

#[test]
fn what_cannot_be_explained() {
    let sandbox = Sandbox::new();
    sandbox.picture("a.png", 1);
    sandbox.write("broken.png", b"no picture");
    let ran = sandbox.ends("explain a.png broken.png -m model --method rollout -o out", 1);
    assert!(ran.err.contains("broken.png") && ran.err.contains("1 of 2 images"), "{}", ran.err);
    assert!(sandbox.has("out/a.png") && sandbox.has("out/index.html"));
    sandbox.fails("explain broken.png -m model -o x", 1, &["none of 1 images"]);
    sandbox.fails("explain a.png -m model -o y --precision bf16", 1, &["bf16", "gradients"]);
    sandbox.fails("explain a.png -m model -o y --block 99", 1, &["block is 99", "from 0 to"]);
    sandbox.fails(
        "explain a.png -m model -o y --overwrite --method similarity --patch 99,0",
        1,
        &["patch is 99,0"],
    );
    sandbox.fails("explain a.png -m model --method fancy", 2, &["fancy"]);
    sandbox.fails("explain a.png -m model --patch 3", 2, &["ROW,COLUMN"]);
    sandbox.fails(
        "explain a.png -m model -o y --overwrite --discard-ratio 1",
        1,
        &["discarded weights is 1"],
    );
    // A network of convolutions has no attention: left out, or refused if it was asked for.
    let tiny =
        "-m resnet18 --model-kwargs layers=[1,1] channels=[8,16] stem_width=8 num_classes=3 img_size=[32,32]";
    let ran = sandbox.run(&format!("explain a.png {tiny} -o z"));
    assert_eq!(ran.code, 1, "a model without weights is refused: {}", ran.err);
}
