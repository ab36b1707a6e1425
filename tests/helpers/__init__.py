"""What several tests share: toys, requests, images, tiny models."""
