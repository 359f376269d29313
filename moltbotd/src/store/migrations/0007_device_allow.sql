-- Commands that a node runs only when it was approved for them: names and
-- families, as a JSON array. Nodes that were approved before this was asked
-- keep what they could do.
ALTER TABLE device ADD COLUMN allow TEXT NOT NULL DEFAULT '[]';
UPDATE device SET allow = '["browser.*","system.*"]'
    WHERE EXISTS (SELECT 1 FROM json_each(device.roles) WHERE value = 'node');
