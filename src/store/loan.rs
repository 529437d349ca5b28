//! A connection that is lent for a limited time: a look at how things stand must not become one of the things that hang.
//!
//! A statement goes on at the server when its caller has gone, and whoever borrows the connection next waits for it. So a
//! connection whose statement is not over does not go back to the pool: it is closed, and the statement is called off.
//! Deliberately absent: writes. Of one that is called off nobody knows whether it happened.

use std::time::Duration;

use deadpool_postgres::Object;
use tokio::runtime::Handle;
use tokio::time::timeout;
use tokio_postgres::NoTls;

use super::pool::forget;
use super::{Pools, StoreError};

/// How long a look at how things stand may take.
pub const LOOK: Duration = Duration::from_secs(1);
/// How long calling a statement off may take; after that the server's own limits end it.
const CALL_OFF: Duration = Duration::from_secs(1);

/// Gives the connection up when it is dropped, unless it was taken out before.
struct Loan(Option<Object>);

impl Drop for Loan {
    fn drop(&mut self) {
        let Some(client) = self.0.take() else { return };
        let statement = client.cancel_token();
        forget(&client);
        drop(Object::take(client));
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(timeout(CALL_OFF, async move { statement.cancel_query(NoTls).await }));
        }
    }
}

impl Pools {
    /// Lets `read` use a connection for readers; all of it takes `limit` at most.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] when time is up.
    pub async fn within<T>(
        &self,
        limit: Duration,
        read: impl AsyncFnOnce(&Object) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let lent = async {
            let mut loan = Loan(None);
            let outcome = read(loan.0.insert(self.reader().await?)).await;
            drop(loan.0.take()); // its statement is over: the next one may have it
            outcome
        };
        let in_time = timeout(limit, lent).await;
        in_time.unwrap_or_else(|_| Err(StoreError::Unavailable("the database does not answer in time".to_owned())))
    }
}
