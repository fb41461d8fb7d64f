"""Images: decoding, RecordIO, alignment, augmentation."""
