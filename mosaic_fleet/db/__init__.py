"""The database: tables, transactions, quick reads, migrations and the embedded Postgres."""
