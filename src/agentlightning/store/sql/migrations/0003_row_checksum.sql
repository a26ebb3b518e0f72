-- A checksum for every stored span, by which a check of the store finds and names what was damaged.

-- CRC-32 over all other columns (store/sql/integrity.py); NULL in rows that an earlier release wrote.
ALTER TABLE spans ADD COLUMN crc INTEGER;
