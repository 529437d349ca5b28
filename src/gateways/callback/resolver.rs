//! From a name to addresses, once for a connection: what was judged here is what is connected to.
//!
//! Deliberately absent: literal addresses, which no client resolves; the URL's own check judges those. No answer is
//! remembered: the system's resolver does that.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use thiserror::Error;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};

use super::address;

/// Lookups under way at once: of one name, and of all. A lookup that its webhook no longer waits for keeps its place until
/// the system gives up, so that a dead name server can neither fill the process with threads nor take the places of names
/// that others answer for.
const MAXIMUM_LOOKUPS_OF_ONE: usize = 4;
const MAXIMUM_LOOKUPS: usize = 64;
/// A name with more addresses is refused: none is connected to unjudged, and nobody honest has so many.
const MAXIMUM_ADDRESSES: usize = 64;

type Lookup = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// Who turns names into addresses.
#[derive(Clone, Default)]
pub enum Resolver {
    /// The system, as for any other program.
    #[default]
    System,
    /// A function: for tests, and for names that are known better than the system knows them.
    Given(Arc<Lookup>),
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Given(_) => "Given",
        })
    }
}

impl Resolver {
    /// Blocks, as the system's resolver does.
    fn lookup(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        match self {
            Self::System => Ok((name, 0).to_socket_addrs()?.map(|address| address.ip()).collect()),
            Self::Given(lookup) => lookup(name),
        }
    }
}

/// Why a name was not connected to.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(super) enum Refused {
    /// At least one of its addresses is none for webhooks. The others do not count: a name that mixes them is a trap.
    #[error("the name leads to an address that webhooks must not reach ({0})")]
    Address(&'static str),
    /// More addresses than anybody needs.
    #[error("the name has more than {MAXIMUM_ADDRESSES} addresses")]
    Crowd,
    /// It has no address.
    #[error("the name does not resolve: {0}")]
    Unknown(String),
}

impl Refused {
    /// The refusal that made a request fail, if one did.
    pub fn within(error: &reqwest::Error) -> Option<&Self> {
        let first: Option<&(dyn std::error::Error + 'static)> = std::error::Error::source(error);
        std::iter::successors(first, |&cause| cause.source()).find_map(|cause| cause.downcast_ref())
    }

    /// For the delivery log.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Address(_) | Self::Crowd => "address",
            Self::Unknown(_) => "dns",
        }
    }
}

/// Stands between the HTTP client and the resolver.
#[derive(Clone, Debug)]
pub(super) struct Guard {
    resolver: Resolver,
    private: bool,
    places: Arc<Places>,
}

/// The places of lookups.
#[derive(Debug)]
struct Places {
    all: Arc<Semaphore>,
    /// Of names that are being looked up; forgotten with the last lookup.
    names: Mutex<HashMap<String, Weak<Semaphore>>>,
}

/// What a lookup holds until the system has answered.
type Place = [OwnedSemaphorePermit; 2];

impl Places {
    fn new() -> Self {
        Self { all: Arc::new(Semaphore::new(MAXIMUM_LOOKUPS)), names: Mutex::default() }
    }

    async fn take(&self, name: &str) -> Result<Place, AcquireError> {
        // The name's own first: who waits for that holds no place of others.
        let own = self.of(name).acquire_owned().await?;
        Ok([own, Arc::clone(&self.all).acquire_owned().await?])
    }

    fn of(&self, name: &str) -> Arc<Semaphore> {
        // Nothing can panic under the lock.
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = names.get(name).and_then(Weak::upgrade) {
            return known;
        }
        names.retain(|_, semaphore| semaphore.strong_count() > 0);
        let fresh = Arc::new(Semaphore::new(MAXIMUM_LOOKUPS_OF_ONE));
        names.insert(name.to_owned(), Arc::downgrade(&fresh));
        fresh
    }
}

impl Guard {
    pub fn new(resolver: Resolver, private: bool) -> Self {
        Self { resolver, private, places: Arc::new(Places::new()) }
    }

    async fn addresses(self, name: String) -> Result<Vec<SocketAddr>, Refused> {
        let unknown = |error: &dyn fmt::Display| Refused::Unknown(error.to_string());
        let place = self.places.take(&name).await.map_err(|error| unknown(&error))?;
        let resolver = self.resolver.clone();
        let looked_up = tokio::task::spawn_blocking(move || {
            let answer = resolver.lookup(&name);
            drop(place);
            answer
        });
        let found = looked_up.await.map_err(|error| unknown(&error))?.map_err(|error| unknown(&error))?;
        self.judge(&found)?;
        // The client puts the URL's port in the place of 0.
        Ok(found.into_iter().map(|address| SocketAddr::new(address, 0)).collect())
    }

    fn judge(&self, found: &[IpAddr]) -> Result<(), Refused> {
        match found.iter().find_map(|&address| address::forbidden(address, self.private)) {
            Some(reason) => Err(Refused::Address(reason)),
            None if found.is_empty() => Err(Refused::Unknown("it has no address".to_owned())),
            None if found.len() > MAXIMUM_ADDRESSES => Err(Refused::Crowd),
            None => Ok(()),
        }
    }
}

impl Resolve for Guard {
    fn resolve(&self, name: Name) -> Resolving {
        let resolved = self.clone().addresses(name.as_str().to_owned());
        Box::pin(async move {
            let addresses = resolved.await?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(addresses: &[&str]) -> Result<(), Refused> {
        let addresses: Vec<IpAddr> = addresses.iter().map(|text| text.parse().unwrap()).collect();
        Guard::new(Resolver::System, false).judge(&addresses)
    }

    #[test]
    fn one_bad_address_among_good_ones_is_enough_to_refuse() {
        assert_eq!(judged(&["93.184.216.34", "2606:2800:220:1::1"]), Ok(()));
        assert_eq!(judged(&["93.184.216.34", "127.0.0.1"]), Err(Refused::Address("loopback")));
        assert_eq!(judged(&["::1", "93.184.216.34"]).unwrap_err().code(), "address");
        assert_eq!(judged(&[]).unwrap_err().code(), "dns");
        assert_eq!(judged(&["93.184.216.34"; MAXIMUM_ADDRESSES + 1]), Err(Refused::Crowd));
    }

    #[tokio::test]
    async fn a_name_whose_server_is_dead_takes_no_place_of_the_others() {
        let (give_up, dead) = std::sync::mpsc::channel::<()>();
        let dead = Mutex::new(dead);
        let given = Resolver::Given(Arc::new(move |name| {
            if name == "dead.example" {
                // Until the test ends.
                let _ = dead.lock().unwrap().recv();
                return Err(io::Error::other("no answer"));
            }
            Ok(vec!["93.184.216.34".parse().unwrap()])
        }));
        let guard = Guard::new(given, false);
        let waiting: Vec<_> =
            (0..100).map(|_| tokio::spawn(guard.clone().addresses("dead.example".to_owned()))).collect();
        let all = Arc::clone(&guard.places.all);
        let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
        while all.available_permits() > MAXIMUM_LOOKUPS - MAXIMUM_LOOKUPS_OF_ONE {
            assert!(tokio::time::Instant::now() < deadline, "the lookups never began");
            tokio::task::yield_now().await;
        }
        assert!(guard.clone().addresses("alive.example".to_owned()).await.is_ok());
        assert_eq!(all.available_permits(), MAXIMUM_LOOKUPS - MAXIMUM_LOOKUPS_OF_ONE);
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        drop(give_up);
    }

    #[tokio::test]
    async fn a_name_that_does_not_resolve_is_told() {
        let given = Resolver::Given(Arc::new(|_| Err(io::Error::other("no such host"))));
        let refused = Guard::new(given, false).addresses("nowhere.example".to_owned()).await.unwrap_err();
        assert_eq!(refused, Refused::Unknown("no such host".to_owned()));
    }
}
