//! Loading in order, with bad files counted.

use vitrum::data::dataset::{DatasetError, Sample, Skipped};
use vitrum::data::loader::{Batch, LoaderError};
use vitrum::data::{
    DatasetOptions, DemoSet, Loader, LoaderOptions, MaxBad, Preprocess, Source, open_dataset,
};

use super::{png, write};

fn preprocess() -> Preprocess {
    Preprocess { input_size: [3, 16, 16], ..Preprocess::default() }
}

fn demo(count: usize, options: LoaderOptions) -> Vec<Batch> {
    let source = Box::new(DemoSet::new(24, count, 3));
    Loader::new(source, preprocess(), options).unwrap().map(Result::unwrap).collect()
}

#[test]
fn any_number_of_workers_gives_the_same_batches() {
    let with =
        |workers, queue| demo(45, LoaderOptions { batch_size: 8, workers, queue, ..Default::default() });
    let one = with(1, 1);
    assert_eq!(one.iter().map(|batch| batch.shape).collect::<Vec<_>>(), {
        let mut shapes = vec![[8, 3, 16, 16]; 5];
        shapes.push([5, 3, 16, 16]);
        shapes
    });
    let labels: Vec<usize> =
        one.iter().flat_map(|batch| batch.labels()).map(|label| label.unwrap()).collect();
    assert!(labels.iter().enumerate().all(|(index, &label)| label == index % 10));
    let direct = preprocess().apply(&DemoSet::new(24, 45, 3).image(9)).unwrap();
    assert_eq!(one[1].values[direct.len()..][..direct.len()], direct);
    for (workers, queue) in [(2, 1), (3, 8), (7, 2), (64, 1)] {
        assert_eq!(with(workers, queue), one, "{workers} workers");
    }
}

#[test]
fn a_loader_may_be_dropped_early() {
    let source = Box::new(DemoSet::new(24, usize::MAX, 0));
    let mut loader = Loader::new(source, preprocess(), LoaderOptions::default()).unwrap();
    assert!(loader.next().unwrap().is_ok());
}

fn folder_with_bad_files(good: usize, bad: usize) -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    for i in 0..good {
        write(root.path(), &format!("cat/{i}.png"), &png(i as u64));
    }
    for i in 0..bad {
        write(root.path(), &format!("dog/bad{i}.png"), &png(i as u64)[..60]);
    }
    root
}

fn load(root: &std::path::Path, max_bad: MaxBad) -> (Loader, Result<usize, LoaderError>) {
    let source = open_dataset(root, &DatasetOptions::default()).unwrap();
    let options = LoaderOptions { batch_size: 4, workers: 3, max_bad, ..Default::default() };
    let mut loader = Loader::new(source, preprocess(), options).unwrap();
    let mut pictures = 0;
    let result = loop {
        match loader.next() {
            Some(Ok(batch)) => pictures += batch.names.len(),
            Some(Err(error)) => break Err(error),
            None => break Ok(pictures),
        }
    };
    assert!(loader.next().is_none());
    (loader, result)
}

#[test]
fn bad_files_are_named_counted_and_skipped() {
    let root = folder_with_bad_files(10, 3);
    let (loader, pictures) = load(root.path(), MaxBad::Count(3));
    assert_eq!(pictures.unwrap(), 10);
    assert_eq!((loader.seen(), loader.bad().len()), (13, 3));
    assert!(loader.bad()[0].name.contains("bad0.png") && loader.bad()[0].reason.contains("bad0.png"));
    let (_, pictures) = load(root.path(), MaxBad::Fraction(0.25));
    assert_eq!(pictures.unwrap(), 10);
    for max_bad in [MaxBad::Count(2), MaxBad::Fraction(0.2), MaxBad::Count(0)] {
        let error = load(root.path(), max_bad).1.unwrap_err();
        let LoaderError::TooManyBad { ref bad, .. } = error else { panic!("{error}") };
        assert!(error.to_string().contains(&bad[0].reason), "{error}");
        assert!(error.to_string().contains("hint:"), "{error}");
    }
}

/// A source that breaks off.
struct Breaks(usize);

impl Source for Breaks {
    fn classes(&self) -> &[String] {
        &[]
    }

    fn count(&self) -> Option<usize> {
        None
    }

    fn skipped(&self) -> &Skipped {
        static NONE: Skipped = Skipped::NONE;
        &NONE
    }

    fn next_sample(&mut self) -> Result<Option<Sample>, DatasetError> {
        if self.0 == 0 {
            let problem = vitrum::data::dataset::DatasetProblem::Damaged("broken off".into());
            return Err(DatasetError { path: "somewhere".into(), problem });
        }
        self.0 -= 1;
        DemoSet::new(16, 1, self.0 as u64).next_sample()
    }
}

#[test]
fn a_source_that_breaks_off_is_an_error_after_what_came_before() {
    let options = LoaderOptions { batch_size: 2, workers: 3, ..Default::default() };
    let mut loader = Loader::new(Box::new(Breaks(4)), preprocess(), options).unwrap();
    assert_eq!(loader.next().unwrap().unwrap().names.len(), 2);
    assert_eq!(loader.next().unwrap().unwrap().names.len(), 2);
    let error = loader.next().unwrap().unwrap_err();
    assert!(matches!(error, LoaderError::Dataset(_)) && error.to_string().contains("somewhere"), "{error}");
    assert!(loader.next().is_none());
}

#[test]
fn options_are_checked() {
    for options in [
        LoaderOptions { batch_size: 0, ..Default::default() },
        LoaderOptions { workers: 0, ..Default::default() },
        LoaderOptions { queue: 0, ..Default::default() },
        LoaderOptions { max_bad: MaxBad::Fraction(f64::NAN), ..Default::default() },
    ] {
        let loader = Loader::new(Box::new(DemoSet::new(8, 1, 0)), preprocess(), options);
        assert!(matches!(loader.err(), Some(LoaderError::Option { .. })));
    }
    let wrong = Preprocess { crop_pct: -1.0, ..preprocess() };
    let loader = Loader::new(Box::new(DemoSet::new(8, 1, 0)), wrong, LoaderOptions::default());
    assert!(matches!(loader.err(), Some(LoaderError::Preprocess(_))));
}
