//! moto's SQS with what it lacks. moto looks at its list of messages from several threads without a lock: two receivers
//! may get one message, and one of two deletions may be undone. It takes any receipt that a message ever had. And
//! nobody can ask it who holds what. In front of it stands one door a machine, through which one request goes at a
//! time; what is not SQS passes by.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::wire::{Request, forward};
use super::{Moto, Reply, Wire};

/// Between two looks of a long poll.
const LOOK_AGAIN: Duration = Duration::from_millis(30);

/// The queues of one moto. Cheap to clone.
#[derive(Clone, Debug)]
pub struct SqsFront {
    behind: String,
    deliveries: Arc<Mutex<Deliveries>>,
}

#[derive(Debug, Default)]
struct Deliveries {
    /// Every receipt there was.
    all: BTreeMap<String, Delivery>,
    /// The newest receipt of each message that is in flight.
    newest: BTreeMap<String, String>,
    /// Who came with a receipt that was out of date.
    stale: Vec<String>,
}

/// A message that was given to a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The door through which it went.
    pub machine: String,
    /// The queue's URL.
    pub queue: String,
    /// The message's id.
    pub message: String,
}

impl SqsFront {
    /// In front of `moto`.
    #[must_use]
    pub fn new(moto: &Moto) -> Self {
        Self { behind: moto.url(), deliveries: Arc::default() }
    }

    /// A door for one machine. Whatever goes through it that is not SQS is moto's affair.
    #[must_use]
    pub fn door(&self, machine: &str) -> Wire {
        let (front, machine) = (self.clone(), machine.to_owned());
        Wire::start(Some(&self.behind), move |request| front.answer(&machine, request))
    }

    /// What `machine` has received and neither deleted nor handed back, and nobody else has received since.
    #[must_use]
    pub fn held_by(&self, machine: &str) -> Vec<Delivery> {
        let deliveries = self.lock();
        let held = deliveries.newest.values().filter_map(|receipt| deliveries.all.get(receipt));
        held.filter(|delivery| delivery.machine == machine).cloned().collect()
    }

    /// Lets the visibility time-outs of everything pass that `machine` holds.
    ///
    /// # Panics
    /// When moto refuses it.
    pub fn expire(&self, moto: &Moto, machine: &str) {
        let mut deliveries = self.lock();
        let Deliveries { all, newest, .. } = &mut *deliveries;
        newest.retain(|_, receipt| {
            let Some(delivery) = all.get(receipt).filter(|delivery| delivery.machine == machine) else {
                return true;
            };
            moto.make_visible(&delivery.queue, receipt);
            false
        });
    }

    /// The machines that came with a receipt that was out of date, as often as they did.
    #[must_use]
    pub fn stale(&self) -> Vec<String> {
        self.lock().stale.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Deliveries> {
        self.deliveries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, machine: &str, request: &Request) -> Reply {
        if request.service != "sqs" {
            return Reply::Forward;
        }
        let Some(body) = request.json() else { return Reply::Garbage };
        match request.operation.as_str() {
            "ReceiveMessage" => self.receive(machine, request, body),
            "ChangeMessageVisibilityBatch" | "DeleteMessageBatch" => self.change(machine, request, body),
            _ => {
                let _one_at_a_time = self.lock();
                self.ask(request, &body)
            }
        }
    }

    fn ask(&self, request: &Request, body: &Value) -> Reply {
        let mut asked = request.clone();
        asked.body = body.to_string().into_bytes();
        let to = self.behind.trim_start_matches("http://");
        forward(to, &asked).map_or(Reply::Close, Reply::Raw)
    }

    /// Looks again and again itself: moto would look while others do.
    fn receive(&self, machine: &str, request: &Request, mut body: Value) -> Reply {
        let wait = body["WaitTimeSeconds"].as_u64().unwrap_or(0);
        let end = Instant::now() + Duration::from_secs(wait);
        body["WaitTimeSeconds"] = 0.into();
        loop {
            let mut deliveries = self.lock();
            let reply = self.ask(request, &body);
            let answer = reply.json();
            let messages = answer.as_ref().and_then(|answer| answer["Messages"].as_array());
            for message in messages.into_iter().flatten() {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                let (id, receipt) = (text(&message["MessageId"]), text(&message["ReceiptHandle"]));
                let delivery = Delivery {
                    machine: machine.to_owned(),
                    queue: text(&body["QueueUrl"]),
                    message: id.clone(),
                };
                deliveries.all.insert(receipt.clone(), delivery);
                deliveries.newest.insert(id, receipt);
            }
            drop(deliveries);
            if messages.is_some_and(|list| !list.is_empty()) || answer.is_none() || Instant::now() >= end {
                return reply;
            }
            std::thread::sleep(LOOK_AGAIN);
        }
    }

    /// A change of visibility by an old receipt is refused. A deletion by one is answered as a success and does
    /// nothing, as SQS may do.
    fn change(&self, machine: &str, request: &Request, mut body: Value) -> Reply {
        let is_deletion = request.operation == "DeleteMessageBatch";
        let mut deliveries = self.lock();
        let entries = body["Entries"].as_array().cloned().unwrap_or_default();
        let receipt = |entry: &Value| entry["ReceiptHandle"].as_str().unwrap_or_default().to_owned();
        let (valid, stale): (Vec<Value>, Vec<Value>) = entries.into_iter().partition(|entry| {
            let receipt = receipt(entry);
            let delivery = deliveries.all.get(&receipt);
            delivery.is_some_and(|delivery| deliveries.newest.get(&delivery.message) == Some(&receipt))
        });
        deliveries.stale.extend(stale.iter().map(|_| machine.to_owned()));
        let mut answer = json!({ "Successful": [], "Failed": [] });
        if !valid.is_empty() {
            body["Entries"] = valid.clone().into();
            let reply = self.ask(request, &body);
            let Some(said) = reply.json().filter(|said| said["Successful"].is_array()) else { return reply };
            answer = said;
        }
        for entry in valid {
            let is_over = is_deletion || entry["VisibilityTimeout"] == 0;
            let message = deliveries.all.get(&receipt(&entry)).map(|delivery| delivery.message.clone());
            if let (true, Some(message)) = (is_over, message) {
                deliveries.newest.remove(&message);
            }
        }
        for entry in stale {
            let (list, said) = if is_deletion {
                ("Successful", json!({ "Id": entry["Id"] }))
            } else {
                (
                    "Failed",
                    json!({ "Id": entry["Id"], "SenderFault": true, "Code": "ReceiptHandleIsInvalid" }),
                )
            };
            if answer[list].is_null() {
                answer[list] = json!([]);
            }
            answer[list].as_array_mut().expect("made above").push(said);
        }
        Reply::Ok(answer.to_string())
    }
}
