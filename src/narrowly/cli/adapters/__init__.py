"""Commands that read, compare, edit and publish the adapters of organisms."""
