"""Moving meters from the bridge to the gateway: plan, waves, comparison. Reads no meter itself."""
