-- The tables that dnsd reads without --corrosion-queries. Every column but the
-- key has a default, as Corrosion's replication needs.
--
-- updated_at is for the writer's own use. Where a table has no other column
-- beside its key, dnsd selects it, because the agent announces a new row only
-- to queries that name a column outside the key. What it holds means nothing.

CREATE TABLE machines (
  id            TEXT NOT NULL PRIMARY KEY,
  network       TEXT NOT NULL DEFAULT '',      -- fdaa:0:18::/48; may be empty where private_ip says it
  app           TEXT NOT NULL DEFAULT '',
  region        TEXT NOT NULL DEFAULT '',
  process_group TEXT NOT NULL DEFAULT '',
  state         TEXT NOT NULL DEFAULT '',      -- started, stopped, ...: the Machines API's words
  private_ip    TEXT NOT NULL DEFAULT '',
  metadata      TEXT NOT NULL DEFAULT '{}',    -- a JSON object of strings
  updated_at    INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE apps (
  network    TEXT NOT NULL,
  name       TEXT NOT NULL,
  updated_at INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (network, name)
) WITHOUT ROWID;

CREATE TABLE peers (
  network    TEXT NOT NULL,
  name       TEXT NOT NULL,
  private_ip TEXT NOT NULL DEFAULT '',
  region     TEXT NOT NULL DEFAULT '',
  updated_at INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (network, name)
) WITHOUT ROWID;

CREATE TABLE app_addresses (
  network    TEXT NOT NULL,
  app        TEXT NOT NULL,
  address    TEXT NOT NULL,
  updated_at INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (network, app, address)
) WITHOUT ROWID;
