//! Reports of fixed results are exact texts.

use serde_json::Value;
use vitrum::study::report::{html, markdown, tables, words};
use vitrum::study::{Plan, Report};

use super::{CHAIN, plan, result};

fn small() -> Plan {
    let head = "paper = \"A. Author, “<B> & C”\"\ndiffers = \"\"\"\nIt is\nsmaller.\n\"\"\"\nseeds = [1, 2]";
    let runs = r#"
        [[runs]]
        [[runs.axis]]
        name = "positions"
        values = [{ name = "none", label = "no | positions" }, { name = "learned" }, { name = "late" }]
        [[check]]
        claim = "positions help"
        source = "“a large gap”, page 3"
        kind = "better"
        a = "learned"
        b = "none"
        by = 2
        [[check]]
        claim = "late ones do not"
        source = "page 4"
        kind = "better"
        a = "none"
        b = "late"
    "#;
    plan(head, runs)
}

fn report() -> Report {
    let plan = small();
    let values =
        [("none-s1", 50.0), ("none-s2", 51.0), ("learned-s1", 60.0), ("learned-s2", 62.0), ("late-s1", 55.5)];
    let results: Vec<_> = values.iter().map(|(id, top1)| result(&plan, id, *top1)).collect();
    Report::of(&plan, &results)
}

#[test]
fn the_report_in_markdown() {
    let expected = "\
# tiny: Which?

Paper: A. Author, “<B> & C”

What differs from the paper: It is smaller.

5 of 6 runs are finished; they took 2.5 min.

## What the paper says, and these results

| claim | verdict | numbers | source |
|---|---|---|---|
| positions help | **agrees** | learned 61.00 ± 1.41, none 50.50 ± 0.71: difference +10.50, standard error 1.12, chance reaches 3.26 | “a large gap”, page 3 |
| late ones do not | **disagrees** | none 50.50 ± 0.71, late 55.50: difference −5.00, standard error 0.87, chance reaches 5.47 | page 4 |
";
    let text = markdown::page(&report());
    // The second check: 5.00 is within what chance reaches with three values.
    let expected = expected.replace("**disagrees**", "**not decided by 1 seed**");
    assert_eq!(&text[..expected.len().min(text.len())], expected);
    let rest = &text[expected.len()..];
    let table = "\
\n## Results

top-1 (%) of the last validation: mean ± standard deviation over the seeds.

| positions | top-1 (%) | seeds | parameters (M) | GMACs | images × epochs | time of a run |
|---|---|---|---|---|---|---|
| no \\| positions | 50.50 ± 0.71 | 2 | 12.346 | 1.235 | 96 × 2 | 30 s |
| learned | 61.00 ± 1.41 | 2 | 12.346 | 1.235 | 96 × 2 | 30 s |
| late | 55.50 | 1 of 2 | 12.346 | 1.235 | 96 × 2 | 30 s |

![tiny](plots/results.svg)

## Not finished

- late-s2
";
    assert_eq!(rest, format!("\n{}\n{table}", words::METHOD));
}

#[test]
fn the_page_needs_no_other_file_and_nothing_in_it_is_markup() {
    let page = html::page(&report()).expect("a page");
    assert!(page.starts_with("<!doctype html>\n") && page.ends_with("</html>\n"));
    for text in [
        "Paper: A. Author, “&lt;B&gt; &amp; C”",
        "<td class=\"agrees\">agrees</td>",
        "<td class=\"open\">not decided by 1 seed</td>",
        "<td class=\"number\">61.00 ± 1.41</td>",
        "prefers-color-scheme: dark",
        "<li>late-s2</li>",
    ] {
        assert!(page.contains(text), "no {text}");
    }
    for outside in ["<script", "src=", "href=", "url(", "@import"] {
        assert!(!page.contains(outside), "{outside}");
    }
    // Each figure twice: light and dark.
    assert_eq!(page.matches("<svg").count(), 2);
    assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
    assert_eq!(
        html::escape("<a href='x'>\"&\"</a>"),
        "&lt;a href=&#39;x&#39;&gt;&quot;&amp;&quot;&lt;/a&gt;"
    );
}

#[test]
fn the_tables_have_every_run() {
    let report = report();
    let csv = tables::csv(&report);
    let lines: Vec<&str> = csv.lines().collect();
    assert_eq!(lines.len(), 6);
    assert_eq!(
        lines[0],
        "run,condition,seed,metric,value,best,best_epoch,params,macs,images,epochs,updates,seconds,folder"
    );
    assert_eq!(lines[1], "none-s1,none,1,top1,50,51,0,12345678,1234567890,96,2,6,30.0,runs/classify/none-s1");
    let json: Value = serde_json::from_str(&tables::json(&report)).expect("JSON");
    assert_eq!(json["finished"], 5);
    assert_eq!(json["missing"], serde_json::json!(["late-s2"]));
    assert_eq!(json["conditions"][1]["values"], serde_json::json!([60.0, 62.0]));
    assert_eq!(json["conditions"][1]["mean"], 61.0);
    assert_eq!(json["checks"][0]["verdict"], "agrees");
    assert_eq!(json["checks"][0]["check"]["rule"]["kind"], "better");
    assert_eq!(json["checks"][1]["verdict"], "not_decided");
    assert_eq!(json["runs"][0]["last"]["eval_top1"], 50.0);
}

#[test]
fn the_best_value_counts_where_a_study_says_so() {
    let plan = plan("take = \"best\"", "[[runs]]\nname = \"one\"");
    let report = Report::of(&plan, &[result(&plan, "one-s1", 50.0)]);
    let text = markdown::page(&report);
    assert!(text.contains("| one | 51.00 | 1 |") && text.contains("of the best validation"), "{text}");
}

/// Two figures: lines with their deviations, and bars.
#[cfg(feature = "plots")]
#[test]
fn figures_show_lines_or_bars() {
    use vitrum::study::report::figure::{Theme, all};
    let plan = plan("seeds = [1, 2]", CHAIN);
    let values = [("nothing-half", 40.0), ("nothing-all", 50.0), ("start-half", 47.0), ("start-all", 52.0)];
    let results: Vec<_> = values
        .iter()
        .flat_map(|(name, top1)| [1, 2].map(|seed| (format!("then-{name}-s{seed}"), top1 + f64::from(seed))))
        .map(|(id, top1)| result(&plan, &id, top1))
        .collect();
    let figures = all(&Report::of(&plan, &results));
    assert_eq!(figures.len(), 1);
    assert_eq!((figures[0].name.as_str(), figures[0].title.as_str()), ("then", "tiny: then"));
    let svg = figures[0].svg(Theme::LIGHT).expect("a figure");
    for text in ["nothing", "start", "share", "top-1 (%) of the last validation"] {
        assert!(svg.contains(text), "no {text}");
    }
    assert_eq!(svg, figures[0].svg(Theme::LIGHT).expect("a figure"), "the same again");
    assert_ne!(svg, figures[0].svg(Theme::DARK).expect("a figure"));
    assert!(figures[0].png().expect("a picture").starts_with(b"\x89PNG"));

    let bars = &all(&report())[0];
    let svg = bars.svg(Theme::LIGHT).expect("a figure");
    for text in ["no | positions", "61.00 ± 1.41", "bars from"] {
        assert!(svg.contains(text), "no {text}");
    }
    if let Ok(folder) = std::env::var("VITRUM_FIGURES") {
        let folder = std::path::PathBuf::from(folder);
        std::fs::write(folder.join("lines.png"), figures[0].png().expect("a picture")).expect("a file");
        std::fs::write(folder.join("bars.png"), bars.png().expect("a picture")).expect("a file");
        std::fs::write(folder.join("report.html"), html::page(&report()).expect("a page")).expect("a file");
    }
}
