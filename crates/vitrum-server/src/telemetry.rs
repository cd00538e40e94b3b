//! Counters and times for Prometheus. Each server has its own.

use std::time::Duration;

use metrics::{
    counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram, with_local_recorder,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};

use crate::models::Models;

const REQUESTS: &str = "vitrum_requests_total";
const REQUEST_TIME: &str = "vitrum_request_duration_seconds";
const IMAGES: &str = "vitrum_images_total";
const DECODE_TIME: &str = "vitrum_decode_duration_seconds";
const QUEUE_TIME: &str = "vitrum_queue_duration_seconds";
const COMPUTE_TIME: &str = "vitrum_compute_duration_seconds";
const BATCH: &str = "vitrum_batch_images";
const WAITING: &str = "vitrum_queue_images";
const READY: &str = "vitrum_ready";

/// Limits of the classes of times, in seconds.
const TIMES: [f64; 14] = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0];

/// Limits of the classes of batches, in images.
const BATCHES: [f64; 9] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0];

/// The numbers of a server.
pub struct Telemetry {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

impl Default for Telemetry {
    fn default() -> Self {
        let builder = PrometheusBuilder::new();
        // Both lists have entries, so that neither is refused.
        let builder = builder.set_buckets(&TIMES).unwrap_or_else(|_| PrometheusBuilder::new());
        let batches = Matcher::Full(BATCH.to_string());
        let builder =
            builder.set_buckets_for_metric(batches, &BATCHES).unwrap_or_else(|_| PrometheusBuilder::new());
        let recorder = builder.build_recorder();
        let handle = recorder.handle();
        let telemetry = Self { recorder, handle };
        telemetry.with(|| {
            describe_counter!(REQUESTS, "Requests by route, method and status.");
            describe_histogram!(REQUEST_TIME, "Seconds from the head of a request to its answer.");
            describe_counter!(IMAGES, "Images answered, by model.");
            describe_histogram!(DECODE_TIME, "Seconds until the images of a request were decoded.");
            describe_histogram!(QUEUE_TIME, "Seconds that a request waited for its pass.");
            describe_histogram!(COMPUTE_TIME, "Seconds of the pass that answered a request.");
            describe_histogram!(BATCH, "Images of the pass that answered a request.");
            describe_gauge!(WAITING, "Images that wait now, by model.");
            describe_gauge!(READY, "1 if the server takes requests, 0 if it ends.");
        });
        telemetry
    }
}

impl Telemetry {
    fn with(&self, record: impl FnOnce()) {
        with_local_recorder(&self.recorder, record);
    }

    /// A request was answered.
    pub fn request(&self, route: &str, method: &str, status: u16, took: Duration) {
        let (route, method) = (route.to_string(), method.to_string());
        self.with(|| {
            counter!(REQUESTS, "route" => route.clone(), "method" => method, "status" => status.to_string())
                .increment(1);
            histogram!(REQUEST_TIME, "route" => route).record(took);
        });
    }

    /// The images of a request were decoded.
    pub fn decoded(&self, took: Duration) {
        self.with(|| histogram!(DECODE_TIME).record(took));
    }

    /// A model answered a request.
    pub fn answered(&self, model: &str, images: usize, batch: usize, waited: Duration, computed: Duration) {
        let model = model.to_string();
        self.with(|| {
            counter!(IMAGES, "model" => model.clone()).increment(images as u64);
            histogram!(QUEUE_TIME, "model" => model.clone()).record(waited);
            histogram!(COMPUTE_TIME, "model" => model.clone()).record(computed);
            histogram!(BATCH, "model" => model).record(batch as f64);
        });
    }

    /// All numbers in Prometheus' text form.
    pub fn render(&self, models: &Models, is_ready: bool) -> String {
        self.with(|| {
            gauge!(READY).set(if is_ready { 1.0 } else { 0.0 });
            for served in models.all() {
                gauge!(WAITING, "model" => served.name().to_string()).set(served.waiting() as f64);
            }
        });
        self.handle.render()
    }

    /// Moves samples into their classes. Without it they pile up between two reads.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }
}
