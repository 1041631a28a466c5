"""From files to batches: manifest, clips, mouth boxes and masks, encoding, records."""
