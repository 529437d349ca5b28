//! Objects of one kind in the order of their making: found by id, paged newest first, dropped oldest first.
//!
//! Deliberately absent: filters and indexes beyond the id. Stripe's lists that need one walk the newest objects.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::ids::Id;

/// The most objects in one page of a list, as in Stripe's API.
pub(super) const MAX_PAGE: usize = 100;
/// The page size when none is asked for.
pub(super) const DEFAULT_PAGE: usize = 10;

/// What has an identifier of its own.
pub(super) trait Identified {
    /// The object's id.
    fn id(&self) -> &Id;
}

/// Which part of a list is wanted (<https://docs.stripe.com/api/pagination>).
#[derive(Debug, Default)]
pub(super) struct Page {
    /// At most this many.
    pub limit: usize,
    /// Only what is older than this object.
    pub starting_after: Option<String>,
    /// Only what is newer than this object.
    pub ending_before: Option<String>,
}

/// One page, newest first, and whether there is more in the direction of travel.
pub(super) type Paged<T> = (Vec<Arc<T>>, bool);

/// Objects of one kind. Each version is immutable; a change replaces the whole object and keeps its place.
#[derive(Debug)]
pub(super) struct Collection<T> {
    first_place: u64,
    items: VecDeque<Option<Arc<T>>>,
    places: HashMap<Id, u64>,
}

impl<T> Default for Collection<T> {
    fn default() -> Self {
        Self { first_place: 0, items: VecDeque::new(), places: HashMap::new() }
    }
}

impl<T: Identified> Collection<T> {
    /// The current version of an object.
    pub fn get(&self, id: &str) -> Option<&Arc<T>> {
        let index = self.index(*self.places.get(id)?)?;
        self.items.get(index)?.as_ref()
    }

    /// Adds a new object at the young end, or replaces the version that is there.
    pub fn upsert(&mut self, object: Arc<T>) {
        match self.places.get(object.id()).copied().and_then(|place| self.index(place)) {
            Some(index) => self.items[index] = Some(object),
            None => {
                self.places.insert(object.id().clone(), self.first_place + self.items.len() as u64);
                self.items.push_back(Some(object));
            }
        }
    }

    /// Forgets an object.
    pub fn remove(&mut self, id: &str) -> Option<Arc<T>> {
        let place = self.places.remove(id)?;
        let index = self.index(place)?;
        let object = self.items.get_mut(index)?.take();
        while let Some(None) = self.items.front() {
            self.items.pop_front();
            self.first_place += 1;
        }
        object
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// The object that was made first.
    pub fn oldest(&self) -> Option<&Arc<T>> {
        self.iter().next()
    }

    /// All objects, oldest first.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Arc<T>> {
        self.items.iter().flatten()
    }

    /// One page of those that `keep` lets through; `Err` with the cursor when no object has that id.
    pub fn page(&self, page: &Page, keep: impl Fn(&T) -> bool) -> Result<Paged<T>, String> {
        let older_than = self.cursor(page.starting_after.as_deref())?.unwrap_or(self.items.len());
        let newer_than = self.cursor(page.ending_before.as_deref())?.map_or(0, |index| index + 1);
        let window = self.items.range(newer_than.min(older_than)..older_than).flatten().filter(|item| keep(item));
        let mut found: Vec<Arc<T>> = if page.ending_before.is_some() {
            window.take(page.limit + 1).cloned().collect()
        } else {
            window.rev().take(page.limit + 1).cloned().collect()
        };
        let has_more = found.len() > page.limit;
        found.truncate(page.limit);
        if page.ending_before.is_some() {
            found.reverse();
        }
        Ok((found, has_more))
    }

    fn cursor(&self, id: Option<&str>) -> Result<Option<usize>, String> {
        let Some(id) = id else { return Ok(None) };
        let place = self.places.get(id).ok_or_else(|| id.to_owned())?;
        Ok(self.index(*place))
    }

    fn index(&self, place: u64) -> Option<usize> {
        usize::try_from(place.checked_sub(self.first_place)?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq)]
    struct Thing(Id, u32);

    impl Identified for Thing {
        fn id(&self) -> &Id {
            &self.0
        }
    }

    fn thing(id: &str, version: u32) -> Arc<Thing> {
        Arc::new(Thing(Id::from(id), version))
    }

    fn things(ids: &[&str]) -> Collection<Thing> {
        let mut all = Collection::default();
        ids.iter().for_each(|id| all.upsert(thing(id, 0)));
        all
    }

    fn ids(page: Paged<Thing>) -> (Vec<String>, bool) {
        (page.0.iter().map(|thing| thing.0.to_string()).collect(), page.1)
    }

    fn page(limit: usize, after: Option<&str>, before: Option<&str>) -> Page {
        Page { limit, starting_after: after.map(Into::into), ending_before: before.map(Into::into) }
    }

    #[test]
    fn a_new_version_keeps_its_place() {
        let mut all = things(&["a", "b"]);
        all.upsert(thing("a", 7));
        assert_eq!(all.get("a").unwrap().1, 7);
        assert_eq!(ids(all.page(&page(10, None, None), |_| true).unwrap()), (vec!["b".into(), "a".into()], false));
    }

    #[test]
    fn pages_run_from_the_newest_and_know_whether_there_is_more() {
        let all = things(&["a", "b", "c", "d"]);
        assert_eq!(ids(all.page(&page(2, None, None), |_| true).unwrap()), (vec!["d".into(), "c".into()], true));
        assert_eq!(ids(all.page(&page(2, Some("c"), None), |_| true).unwrap()), (vec!["b".into(), "a".into()], false));
        assert_eq!(ids(all.page(&page(2, None, Some("a")), |_| true).unwrap()), (vec!["c".into(), "b".into()], true));
        assert_eq!(all.page(&page(2, Some("x"), None), |_| true), Err("x".to_owned()));
    }

    #[test]
    fn removed_objects_leave_no_trace_wherever_they_stood() {
        let mut all = things(&["a", "b", "c"]);
        assert!(all.remove("b").is_some());
        assert!(all.remove("a").is_some());
        assert!(all.remove("a").is_none());
        assert_eq!((all.len(), all.oldest().unwrap().0.as_ref()), (1, "c"));
        all.upsert(thing("d", 0));
        assert_eq!(ids(all.page(&page(9, None, None), |_| true).unwrap()), (vec!["d".into(), "c".into()], false));
    }
}
