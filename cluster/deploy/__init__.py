"""How the cluster is set up: AWS, KubeRay, machines of one's own, the image and the dashboard."""
