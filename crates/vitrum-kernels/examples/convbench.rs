use burn::tensor::{DType, Device, Distribution, Tensor};
use std::time::Instant;
use vitrum_kernels::*;
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
fn main() {
    let cases: Vec<[usize; 8]> = std::fs::read_to_string("/tmp/conv_cases.txt")
        .unwrap()
        .trim()
        .trim_matches(|c| c == '[' || c == ']')
        .split('(')
        .filter(|s| s.contains(')'))
        .map(|s| {
            let v: Vec<usize> =
                s.split(')').next().unwrap().split(',').map(|x| x.trim().parse().unwrap()).collect();
            v.try_into().unwrap()
        })
        .collect();
    rayon::ThreadPoolBuilder::new().num_threads(2).build_global().unwrap();
    let device = Device::flex();
    rayon::scope(|_| {
        for [b, h, w, c, n, k, s, g] in cases {
            let x: Tensor<3> =
                Tensor::random([b, h * w, c], Distribution::Normal(0.0, 1.0), (&device, DType::F32));
            let wt: Tensor<4> =
                Tensor::random([k, k, c / g, n], Distribution::Normal(0.0, 1.0), (&device, DType::F32));
            let form = ConvForm::new([h, w], [k, k]).stride([s, s]).padding([(k - 1) / 2; 2]).groups(g);
            let packed = PackedConv::pack(wt.clone().into_data().try_to_vec().unwrap(), [k, k, c / g, n], g);
            let time = |f: &dyn Fn()| {
                for _ in 0..3 {
                    f()
                }
                let mut t: Vec<f64> = (0..9)
                    .map(|_| {
                        let t = Instant::now();
                        f();
                        t.elapsed().as_secs_f64()
                    })
                    .collect();
                t.sort_by(f64::total_cmp);
                t[4]
            };
            let t1 = time(&|| {
                conv(x.clone(), wt.clone(), None, form);
            });
            let t2 = time(&|| {
                conv_packed(x.clone(), &packed, form, Folding::default());
            });
            let [oh, ow] = form.out();
            let macs = (b * oh * ow * n * (c / g) * k * k) as f64;
            println!(
                "({b}, {h}, {w}, {c}, {n}, {k}, {s}, {g}) {:.3} ms {:.0} GF packed {:.3} ms {:.0} GF",
                t1 * 1e3,
                2.0 * macs / t1 / 1e9,
                t2 * 1e3,
                2.0 * macs / t2 / 1e9
            );
        }
    });
}
