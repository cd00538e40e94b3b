//! Fine-tuning with a closure that stops early; the result is a classifier.
//!
//! `cargo run --release --example finetune [DATA MODEL]`; without arguments drawn pictures and the demo model.

use std::ops::ControlFlow;

use vitrum::prelude::*;

fn main() -> Result<(), Error> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let folder = std::env::temp_dir().join(format!("vitrum-finetune-{}", std::process::id()));
    let recipe = Recipe {
        data: args.first().cloned().unwrap_or_else(|| "demo:200".into()),
        pretrained: Some(args.get(1).cloned().unwrap_or_else(|| "demo".into())),
        epochs: 3,
        output: folder.clone(),
        ..Recipe::finetune()
    };
    let outcome = fit(&Job::new(recipe), &mut |event: &Event| match event {
        Event::Note(note) => {
            println!("{note}");
            ControlFlow::Continue(())
        }
        Event::Epoch(epoch) => {
            let top1 = epoch.score("top1").unwrap_or(0.0);
            println!("epoch {}: loss {:.3}, top-1 {top1:.1} %", epoch.epoch, epoch.train_loss);
            // Good enough: the run saves, writes its best weights, and ends.
            if top1 > 90.0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }
        _ => ControlFlow::Continue(()),
    })?;
    println!("stopped early: {}", outcome.stopped.is_some());
    let model = folder.join("mine");
    outcome.classifier()?.save(&model)?; // timm: create_model("local-dir:…", pretrained=True)
    println!(
        "{} classes in {}",
        Classifier::load(&model)?.labels().map_or(0, <[String]>::len),
        model.display()
    );
    Ok(())
}
