-- One transaction: of several workers that start at once the first one does the work,
-- the others wait for the lock and find it done.
BEGIN IMMEDIATE;

CREATE TABLE IF NOT EXISTS notices (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,  -- the number of a deleted notice is not given again
    title   TEXT NOT NULL,
    body    TEXT NOT NULL,
    author  TEXT NOT NULL,
    created TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%SZ', 'now'))
);

-- user_version is 0 in a new file: the first notices come once, and stay away when deleted.
INSERT INTO notices (title, body, author, created)
SELECT column1, column2, column3, strftime('%Y-%m-%dT%H:%M:%SZ', 'now', column4)
FROM (VALUES
    ('Welcome to the board',
     'Pin what the house should know: a lost key, a spare table, a party on Saturday.',
     'ada', '-3 days'),
    ('Bicycle looks for a rider',
     'Blue, 28 inches, bell included. It stands in the yard and would like to be ridden again.',
     'ben', '-2 days'),
    ('Choir needs a second tenor',
     'Thursdays at seven, in the room above the bakery. Nobody is asked to sing alone.',
     'ada', '-1 days'),
    ('Found: one red glove',
     'It hangs on the fence by the gate and waves when there is wind.',
     'ben', '-2 hours')
)
WHERE (SELECT user_version FROM pragma_user_version) = 0;

PRAGMA user_version = 1;

COMMIT;
