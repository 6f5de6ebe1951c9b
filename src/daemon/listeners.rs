//! The listeners of the daemon by their numbers, and how a reload adds and removes some.
//!
//! Each number belongs to a service, which is fixed at start. There is a number for each listener
//! of the start, and some more for each service (see [`OfListener::spares`]). A number is free
//! again when its listener is closed and its clients have left. For the same listener it is free at
//! once.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use super::cli::{Cli, Where};
use super::failure::Failure;
use super::settings::Settings;
use crate::base::endpoint::Endpoint;
use crate::builtin::OfListener;
use crate::builtin::url::{ServiceOptions, Spec};
use crate::config::{Config, LISTENERS_ADDED_MAX};
use crate::error::StartError;
use crate::net::bind::{self, ListenOn};
use crate::net::proxy::ProxyOptions;
use crate::net::transport::TransportOptions;
use crate::server::{Patience, Prepared, ServerHandle};

/// The listeners.
pub(super) struct Listeners {
    /// The values of the setting `listen`, in their order.
    values: Vec<ListenValue>,
    /// By their numbers.
    slots: Vec<Slot>,
    /// How many there were at start.
    at_start: usize,
}

/// A value of the setting `listen`.
#[derive(Clone)]
struct ListenValue {
    service: ServiceOptions,
    at: Where,
    /// The numbers of its listeners: several for a name.
    numbers: Vec<usize>,
}

/// A number.
struct Slot {
    service: ServiceOptions,
    /// The listener, also after its end.
    listener: Option<ConfiguredListener>,
    is_open: bool,
}

struct ConfiguredListener {
    /// As it is configured, for example with port 0.
    on: ListenOn,
    target: Spec,
}

/// What a reload changes.
pub(super) struct Plan {
    /// The new values. Those that are added have no numbers yet.
    values: Vec<ListenValue>,
    removed: Vec<usize>,
    added: Vec<Added>,
    /// New wildcards of IPv6 that a machine without it leaves out.
    left_out: Vec<Endpoint>,
}

/// A listener that is added.
struct Added {
    /// Which of the new values it is one of.
    value: usize,
    number: usize,
    on: ListenOn,
}

/// Why the listeners are not changed.
pub(super) enum NotPlanned {
    /// The running daemon cannot do it.
    NeedsUpgrade(String),
    /// The settings are wrong.
    Wrong(String),
}

impl Listeners {
    /// The listeners that the server was started with. `config` has those of `cli`, with their names,
    /// and `targets` says where they are.
    pub(super) fn new(cli: &Cli, config: &Config, services: &OfListener, targets: &[Spec]) -> Self {
        let mut numbers = 0..;
        let value = |((service, at), count): (&(ServiceOptions, Where), &usize)| ListenValue {
            service: *service,
            at: at.clone(),
            numbers: numbers.by_ref().take(*count).collect(),
        };
        let values = cli.listeners().iter().zip(&config.names).map(value).collect();
        let own = targets.iter().zip(&config.listen).map(|(target, on)| Slot {
            service: target.service,
            listener: Some(ConfiguredListener { on: on.clone(), target: target.clone() }),
            is_open: true,
        });
        let spare = |service| Slot { service, listener: None, is_open: false };
        let slots = own.chain(services.spares().into_iter().map(spare)).collect();
        Listeners { values, slots, at_start: targets.len() }
    }

    /// The services and addresses by number, also of listeners that were removed.
    pub(super) fn targets(&self) -> Vec<Option<Spec>> {
        let target = |slot: &Slot| Some(slot.listener.as_ref()?.target.clone());
        self.slots.iter().map(target).collect()
    }

    /// The same as texts. Empty where there was no listener.
    pub(super) fn names(&self) -> Vec<String> {
        let name = |target: Option<Spec>| target.map_or_else(String::new, |one| one.to_string());
        self.targets().into_iter().map(name).collect()
    }

    fn target(&self, number: usize) -> String {
        let listener = self.slots.get(number).and_then(|slot| slot.listener.as_ref());
        listener.map_or_else(String::new, |listener| listener.target.to_string())
    }

    /// Compares the listeners with those of `cli`, and looks up the names of those that are new.
    ///
    /// # Errors
    /// Why the listeners stay as they are.
    pub(super) fn plan(
        &self,
        cli: &Cli,
        server: &ServerHandle,
        patience: &Patience,
    ) -> Result<Plan, NotPlanned> {
        let mut old = self.values.clone();
        let (values, removed, added) = (Vec::new(), Vec::new(), Vec::new());
        let mut plan = Plan { values, removed, added, left_out: Vec::new() };
        let mut new = Vec::new();
        for (service, at) in cli.listeners() {
            let is_same = |value: &ListenValue| value.service == *service && value.at == *at;
            let kept = old.iter().position(is_same).map(|place| old.remove(place));
            let value = ListenValue { service: *service, at: at.clone(), numbers: Vec::new() };
            let value = kept.unwrap_or_else(|| {
                new.push(plan.values.len());
                value
            });
            plan.values.push(value);
        }
        for value in old {
            self.check_removal(&value)?;
            plan.removed.extend(value.numbers);
        }
        if !new.is_empty() {
            server.finish_removals(patience);
        }
        for (nth, on) in self.addresses_of(&mut plan, &new)? {
            let number = self.free_number(&plan, plan.values[nth].service, &on, server)?;
            plan.added.push(Added { value: nth, number, on });
        }
        self.check_together(&plan, &cli.settings)?;
        Ok(plan)
    }

    /// The addresses that the `new` ones of a plan's values add, each with the place of its value.
    fn addresses_of(
        &self,
        plan: &mut Plan,
        new: &[usize],
    ) -> Result<Vec<(usize, ListenOn)>, NotPlanned> {
        let on = |number: &usize| Some(self.slots.get(*number)?.listener.as_ref()?.on.clone());
        // One without a number was left out, and may be needed now.
        let is_kept = |nth: usize| !new.contains(&nth) && !plan.values[nth].numbers.is_empty();
        let addresses = |(nth, value): (usize, &ListenValue)| match is_kept(nth) {
            true => Ok(value.numbers.iter().filter_map(on).collect()),
            false => resolved(value),
        };
        let mut all: Vec<Vec<ListenOn>> =
            plan.values.iter().enumerate().map(addresses).collect::<Result<_, _>>()?;
        let left_out = bind::leave_out_ipv6_wildcards(&mut all);
        let added = all.into_iter().enumerate().filter(|(nth, _)| !is_kept(*nth));
        let added = added.flat_map(|(nth, on)| on.into_iter().map(move |on| (nth, on))).collect();
        let of_new = left_out.into_iter().filter(|(nth, _)| new.contains(nth));
        plan.left_out = of_new.map(|(_, endpoint)| endpoint).collect();
        Ok(added)
    }

    fn check_removal(&self, value: &ListenValue) -> Result<(), NotPlanned> {
        let targets = || value.numbers.iter().map(|number| self.target(*number));
        let targets = || targets().collect::<Vec<_>>().join(" ");
        let on = |number: &usize| self.slots.get(*number)?.listener.as_ref();
        let mut listeners = value.numbers.iter().filter_map(on);
        match &value.at {
            Where::Passed(name, ..) => Err(NotPlanned::NeedsUpgrade(format!(
                "fd:{name} is a socket of the service manager, which keeps it open"
            ))),
            Where::Address(_) if listeners.any(|one| one.on.endpoint.is_datagram()) => {
                let text = format!("{} has datagrams", targets());
                Err(NotPlanned::NeedsUpgrade(text))
            }
            Where::Address(_) => Ok(()),
        }
    }

    /// A number for a listener.
    fn free_number(
        &self,
        plan: &Plan,
        service: ServiceOptions,
        on: &ListenOn,
        server: &ServerHandle,
    ) -> Result<usize, NotPlanned> {
        let is_free = |number: usize, slot: &Slot| {
            let is_taken = slot.is_open || plan.added.iter().any(|one| one.number == number);
            slot.service == service && !is_taken && server.is_free(number)
        };
        let is_left = |number| server.clients_of(number) == 0;
        let has_port = on.endpoint.socket_addr().is_none_or(|address| address.port() != 0);
        let slots = || self.slots.iter().enumerate();
        // The listener that it had, with the byte layer and the clients of that.
        let had_it = |slot: &Slot| slot.listener.as_ref().is_some_and(|had| had.on == *on);
        let same = slots().find(|(number, slot)| {
            had_it(slot) && is_free(*number, slot) && (has_port || is_left(*number))
        });
        if let Some((number, _)) = same {
            return Ok(number);
        }
        let address = Spec {
            service,
            transport: on.transport.clone(),
            proxy: on.proxy.clone(),
            address: on.endpoint.address(),
        };
        let upgrade = |why: &str| Err(NotPlanned::NeedsUpgrade(format!("{address} {why}")));
        if on.endpoint.is_datagram() {
            return upgrade("has datagrams");
        }
        let is_plain = matches!(on.transport, TransportOptions::Tcp | TransportOptions::Unix(_));
        if !is_plain {
            return upgrade("has TLS");
        }
        if on.proxy != ProxyOptions::default() {
            return upgrade("has PROXY headers");
        }
        let mut spares = slots().skip(self.at_start).filter(|(_, slot)| slot.service == service);
        if service.has_tables() {
            return upgrade("has its own memory, which is allocated at start");
        }
        if spares.clone().next().is_none() {
            return upgrade("has a service or options that no listener had at start");
        }
        let free = spares.find(|(number, slot)| is_free(*number, slot) && is_left(*number));
        match free {
            Some((number, _)) => Ok(number),
            None => upgrade("exceeds the room for listeners"),
        }
    }

    /// Checks that the addresses can be listened on together, and that there are not too many.
    fn check_together(&self, plan: &Plan, settings: &Settings) -> Result<(), NotPlanned> {
        let open = self.slots.iter().enumerate().filter(|(_, slot)| slot.is_open);
        let open = open.filter_map(|(number, slot)| Some((number, &slot.listener.as_ref()?.on)));
        let (left, kept): (Vec<_>, Vec<_>) =
            open.partition(|(number, _)| plan.removed.contains(number));
        let mut all: Vec<ListenOn> = kept.into_iter().map(|(_, on)| on.clone()).collect();
        all.extend(plan.added.iter().map(|added| added.on.clone()));
        bind::check(&all)
            .map_err(|error| NotPlanned::Wrong(Failure::of_start(&error, settings).text))?;
        if all.len() > self.at_start + LISTENERS_ADDED_MAX {
            let text = format!(
                "there are {} listeners, and a daemon that was started with {} has room for \
                 {LISTENERS_ADDED_MAX} more",
                all.len(),
                self.at_start
            );
            return Err(NotPlanned::NeedsUpgrade(text));
        }
        let left: Vec<ListenOn> = left.into_iter().map(|(_, on)| on.clone()).collect();
        let (kept, added) = all.split_at(all.len() - plan.added.len());
        if let Some(text) = split_wildcards([kept, added, &left]) {
            return Err(NotPlanned::NeedsUpgrade(text));
        }
        // New ones are bound before any is closed.
        all.extend(left);
        bind::check(&all).map_err(|error| {
            let clash = match error {
                StartError::ListenedTwice(endpoint) | StartError::Covered { endpoint, .. } => {
                    endpoint.to_string()
                }
                other => other.to_string(),
            };
            let text = format!("{clash} is in use by a listener that the same reload removes");
            NotPlanned::NeedsUpgrade(text)
        })
    }

    /// Binds the listeners that are added. Nothing else is changed.
    ///
    /// # Errors
    /// One of them cannot be bound. The text says which, and why.
    pub(super) fn prepare<'a>(
        plan: &Plan,
        server: &'a ServerHandle,
        settings: &Settings,
        patience: &'a Patience,
    ) -> Result<Prepared<'a>, String> {
        let of_value = |nth| plan.added.iter().filter(|added| added.value == nth).count();
        let names: Vec<usize> = (0..plan.values.len()).map(of_value).collect();
        let on: Vec<ListenOn> = plan.added.iter().map(|added| added.on.clone()).collect();
        let numbers: Vec<usize> = plan.added.iter().map(|added| added.number).collect();
        server.prepare(&on, &names, &numbers, patience).map_err(|error| {
            let remedy = match &error {
                StartError::Listen { endpoint: Endpoint::Tcp(_), error, .. }
                    if error.kind() == std::io::ErrorKind::PermissionDenied =>
                {
                    ", give the program or its unit the capability and upgrade (echopool ctl \
                     upgrade), or let systemd pass the socket and restart (fd:NAME)"
                }
                _ => "",
            };
            format!("{}{remedy}", Failure::of_start(&error, settings).text)
        })
    }

    /// Carries out a plan. `why` begins the lines of the log.
    pub(super) fn carry_out(
        &mut self,
        plan: Plan,
        prepared: Prepared<'_>,
        server: &ServerHandle,
        why: &str,
        patience: &Patience,
    ) {
        let Plan { mut values, removed, added, left_out } = plan;
        left_out.into_iter().for_each(bind::log_left_out);
        for (Added { value, number, on }, (_, endpoint)) in added.into_iter().zip(prepared.begin())
        {
            let slot = &mut self.slots[number];
            let target = Spec {
                service: slot.service,
                transport: on.transport.clone(),
                proxy: on.proxy.clone(),
                address: endpoint.address(),
            };
            log::info!("{why}: listening on {target}");
            (slot.listener, slot.is_open) = (Some(ConfiguredListener { on, target }), true);
            values[value].numbers.push(number);
        }
        removed.iter().for_each(|number| self.slots[*number].is_open = false);
        let left = server.remove(&removed, patience);
        for number in removed {
            let (target, clients) = (self.target(number), server.clients_of(number));
            log::info!(
                "{why}: no longer listening on {target}; its clients stay connected: {clients}"
            );
            if left.contains(&number) {
                log::warn!("{why}: a worker has not closed {target} yet");
            }
        }
        self.values = values;
        let order: Vec<usize> =
            self.values.iter().flat_map(|value| value.numbers.iter().copied()).collect();
        server.order_offers(&order);
    }
}

/// Whether one of `[::]` and `0.0.0.0` at the same port is there longer than the other, or later.
/// `[::]` takes the clients of IPv4 if it is bound alone, and cannot do so afterwards. Returns a text
/// that says so. `groups` are those that stay, that are added and that are removed.
fn split_wildcards(groups: [&[ListenOn]; 3]) -> Option<String> {
    let tcp = |on: &ListenOn| on.endpoint.socket_addr().filter(|_| !on.endpoint.is_datagram());
    let groups = groups.map(|group| group.iter().filter_map(tcp).collect::<Vec<_>>());
    let wide = |at: &&SocketAddr| at.ip() == Ipv6Addr::UNSPECIFIED && at.port() != 0;
    let group_of = |at: &SocketAddr| groups.iter().position(|group| group.contains(at));
    groups.iter().flatten().filter(wide).find_map(|wide| {
        let narrow = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), wide.port());
        let together = group_of(&narrow).is_none_or(|group| Some(group) == group_of(wide));
        (!together).then(|| format!("{wide} receives IPv4 clients only without {narrow}"))
    })
}

/// The endpoints of a value.
fn resolved(value: &ListenValue) -> Result<Vec<ListenOn>, NotPlanned> {
    match &value.at {
        Where::Address(at) => at.resolve().map_err(|error| NotPlanned::Wrong(error.to_string())),
        Where::Passed(name, ..) => Err(NotPlanned::NeedsUpgrade(format!(
            "fd:{name} is a socket of the service manager, which are taken at start"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_one_port_stay_and_come_together() {
        let of = |text: &[&str]| -> Vec<ListenOn> {
            text.iter().map(|text| Endpoint::Tcp(text.parse().unwrap()).into()).collect()
        };
        let split = |stay: &[&str], added: &[&str], removed: &[&str]| {
            split_wildcards([&of(stay), &of(added), &of(removed)])
        };
        let told = Some("[::]:80 receives IPv4 clients only without 0.0.0.0:80".to_owned());
        assert_eq!(split(&["[::]:80"], &["0.0.0.0:80"], &[]), told);
        assert_eq!(split(&["0.0.0.0:80"], &[], &["[::]:80"]), told);
        assert_eq!(split(&["127.0.0.1:7"], &["[::]:80", "0.0.0.0:80"], &[]), None);
        assert_eq!(split(&["[::]:80"], &["0.0.0.0:81"], &[]), None);
        // Other addresses, and any port.
        assert_eq!(split(&["[::1]:80", "127.0.0.1:80"], &["0.0.0.0:80"], &[]), None);
        assert_eq!(split(&["[::]:0"], &["0.0.0.0:0"], &[]), None);
    }
}
