//! The place of the first NaN or infinite value.

use std::fmt::Arguments;

use burn::module::Param;
use burn::tensor::Tensor;

use crate::layers::names::{Key, Visit, visit};
use crate::layers::observe::Observer;
use crate::models::{Model, Network, Want};

/// The first non-finite value: a parameter, the input, or the first intermediate. `None` if all are finite.
///
/// `model` and `images` `[B, C, H, W]` are on a device without autodiff.
pub fn first_bad(model: &Model, images: Tensor<4>) -> Option<String> {
    if let Some(key) = bad_parameter(model) {
        return Some(format!("parameter {key}"));
    }
    if !finite(images.clone()) {
        return Some("the input images".into());
    }
    let mut watch = FirstBad(None);
    if let Some(backbone) = model.backbone() {
        let features = backbone.features(images.into(), Want::Last, &mut watch);
        if let Some(classifier) = model.classify() {
            classifier.head(features, &mut watch);
        }
    }
    watch.0.map(|name| format!("output of {name}"))
}

fn finite<const R: usize>(x: Tensor<R>) -> bool {
    x.into_data().iter::<f64>().all(f64::is_finite)
}

struct FirstBad(Option<String>);

impl FirstBad {
    fn look<const R: usize>(&mut self, name: Arguments<'_>, x: &Tensor<R>) {
        if self.0.is_none() && !finite(x.clone()) {
            self.0 = Some(name.to_string());
        }
    }
}

impl Observer for FirstBad {
    fn tokens(&mut self, name: Arguments<'_>, x: Tensor<3>) -> Tensor<3> {
        self.look(name, &x);
        x
    }

    fn vectors(&mut self, name: Arguments<'_>, x: Tensor<2>) -> Tensor<2> {
        self.look(name, &x);
        x
    }
}

fn bad_parameter(model: &Model) -> Option<String> {
    struct Look(Option<String>);
    impl Visit for Look {
        fn float<const R: usize>(&mut self, key: &Key, param: &Param<Tensor<R>>) {
            if self.0.is_none() && !finite(param.val()) {
                self.0 = Some(key.name.clone());
            }
        }
    }
    let mut look = Look(None);
    visit(model, &mut look);
    look.0
}
