import { Dashboard } from '@grafana/schema';

export type Root = Dashboard;
