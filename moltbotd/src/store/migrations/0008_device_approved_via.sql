-- Who let a device in: 'owner' or 'silent'; NULL where it was let in before this was recorded.
ALTER TABLE device ADD COLUMN approved_via TEXT;
