//! The drawn set.

use std::collections::HashSet;

use vitrum::data::demo::{CLASSES, DemoSet};
use vitrum::data::{DatasetOptions, Source, open_dataset};

#[test]
fn pictures_depend_on_seed_and_number_alone() {
    let set = DemoSet::new(32, 100, 5);
    let mut other = DemoSet::new(32, 3, 5);
    other.next_sample().unwrap();
    assert_eq!(set.image(42), other.image(42));
    assert_ne!(set.image(42), set.image(52));
    assert_ne!(set.image(42), DemoSet::new(32, 100, 6).image(42));
    let different: HashSet<Vec<u8>> = (0..100).map(|index| set.image(index).into_data()).collect();
    assert_eq!(different.len(), 100);
}

#[test]
fn every_class_is_drawn_equally_often_and_with_contrast() {
    let mut set = DemoSet::new(48, 50, 1);
    let mut counts = [0; 10];
    while let Some(sample) = set.next_sample().unwrap() {
        let label = sample.label().unwrap();
        counts[label] += 1;
        assert!(sample.name.contains(CLASSES[label]), "{}", sample.name);
    }
    assert_eq!(counts, [5; 10]);
    for index in 0..50 {
        let mut grey: Vec<u8> = set.image(index).to_grey().into_data();
        grey.sort_unstable();
        let spread = grey[grey.len() * 98 / 100] - grey[grey.len() / 50];
        assert!(spread > 25, "picture {index} is flat: {spread}");
    }
}

#[test]
fn demo_opens_as_a_dataset() {
    let source = open_dataset("demo", &DatasetOptions::default()).unwrap();
    assert_eq!(source.classes(), CLASSES);
    assert_eq!(source.count(), Some(1000));
    for size in [0, 1, 8, 33] {
        assert_eq!(DemoSet::new(size, 1, 0).image(0).width(), size.max(8));
    }
}
