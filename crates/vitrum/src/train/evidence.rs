//! Where numbers first stopped being numbers.

use std::fmt::Arguments;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::Tensor;

use crate::layers::names::KeyPath;
use crate::layers::observe::Observer;
use crate::models::Model;

/// What is wrong with a model or with what it makes of a batch, first things first: a parameter, the input, or the
/// first intermediate that is not finite. `None` when all is.
///
/// `model` and `images` `[B, C, H, W]` are on a device that keeps no graph.
pub fn first_bad(model: &Model, images: Tensor<4>) -> Option<String> {
    if let Some(key) = bad_parameter(model) {
        return Some(format!("parameter {key}"));
    }
    if !finite(images.clone()) {
        return Some("the input images".into());
    }
    let mut watch = FirstBad(None);
    let features = model.backbone().features(images, &mut watch);
    model.backbone().head(features, &mut watch);
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
    fn tokens(&mut self, name: Arguments<'_>, x: &Tensor<3>) {
        self.look(name, x);
    }

    fn vectors(&mut self, name: Arguments<'_>, x: &Tensor<2>) {
        self.look(name, x);
    }
}

fn bad_parameter(model: &Model) -> Option<String> {
    struct Look(KeyPath, Option<String>);
    impl ModuleVisitor for Look {
        fn enter_module(&mut self, name: &str, container: &str) {
            self.0.enter(name, container);
        }
        fn exit_module(&mut self, _: &str, _: &str) {
            self.0.exit();
        }
        fn visit_float<const R: usize>(&mut self, param: &Param<Tensor<R>>) {
            if self.1.is_none() && !finite(param.val()) {
                self.1 = Some(self.0.key());
            }
        }
    }
    let mut look = Look(KeyPath::default(), None);
    model.visit(&mut look);
    look.1
}
