//! Every call that Lifeboat makes to AWS, by name, with the permission that it takes.
//!
//! A call is made only through one of these, so this list is also what a least-privilege policy is written from.

use std::fmt;

/// An AWS service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Service {
    /// EC2 Auto Scaling.
    AutoScaling,
    /// CloudWatch (metrics).
    CloudWatch,
    /// DynamoDB.
    DynamoDb,
    /// Elastic Container Service.
    Ecs,
    /// Elastic Load Balancing, version 2.
    Elb,
    /// Simple Notification Service.
    Sns,
    /// Simple Queue Service.
    Sqs,
    /// Systems Manager.
    Ssm,
}

impl Service {
    /// The name before the colon of an IAM action.
    #[must_use]
    pub const fn iam_prefix(self) -> &'static str {
        match self {
            Self::AutoScaling => "autoscaling",
            Self::CloudWatch => "cloudwatch",
            Self::DynamoDb => "dynamodb",
            Self::Ecs => "ecs",
            Self::Elb => "elasticloadbalancing",
            Self::Sns => "sns",
            Self::Sqs => "sqs",
            Self::Ssm => "ssm",
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::AutoScaling => "Auto Scaling",
            Self::CloudWatch => "CloudWatch",
            Self::DynamoDb => "DynamoDB",
            Self::Ecs => "ECS",
            Self::Elb => "Elastic Load Balancing",
            Self::Sns => "SNS",
            Self::Sqs => "SQS",
            Self::Ssm => "Systems Manager",
        })
    }
}

/// Lists the calls: variant (also the name on the wire), service, IAM actions.
macro_rules! operations {
    ($($name:ident, $service:ident, [$($action:literal),+];)*) => {
        /// A call to AWS.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Operation {
            $(#[doc = concat!("`", stringify!($name), "`")] $name,)*
        }

        impl Operation {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// Its name in AWS's API.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)*
                }
            }

            /// Whose it is.
            #[must_use]
            pub const fn service(self) -> Service {
                match self {
                    $(Self::$name => Service::$service,)*
                }
            }

            /// The permissions that it takes, as they are written in a policy.
            ///
            /// Source: AWS Service Authorization Reference, "Actions, resources, and condition keys" of each service
            /// (read 2023): a batch call needs the permission of the single one, a transaction those of its parts.
            #[must_use]
            pub const fn iam_actions(self) -> &'static [&'static str] {
                match self {
                    $(Self::$name => &[$($action),+],)*
                }
            }
        }
    };
}

operations! {
    CompleteLifecycleAction, AutoScaling, ["autoscaling:CompleteLifecycleAction"];
    DescribeAutoScalingGroups, AutoScaling, ["autoscaling:DescribeAutoScalingGroups"];
    DescribeAutoScalingInstances, AutoScaling, ["autoscaling:DescribeAutoScalingInstances"];
    DescribeLifecycleHooks, AutoScaling, ["autoscaling:DescribeLifecycleHooks"];
    RecordLifecycleActionHeartbeat, AutoScaling, ["autoscaling:RecordLifecycleActionHeartbeat"];
    PutMetricData, CloudWatch, ["cloudwatch:PutMetricData"];
    DescribeTable, DynamoDb, ["dynamodb:DescribeTable"];
    GetItem, DynamoDb, ["dynamodb:GetItem"];
    PutItem, DynamoDb, ["dynamodb:PutItem"];
    Query, DynamoDb, ["dynamodb:Query"];
    TransactWriteItems, DynamoDb, ["dynamodb:PutItem", "dynamodb:DeleteItem", "dynamodb:ConditionCheckItem"];
    DescribeServices, Ecs, ["ecs:DescribeServices"];
    DescribeTasks, Ecs, ["ecs:DescribeTasks"];
    ListServices, Ecs, ["ecs:ListServices"];
    ListTasks, Ecs, ["ecs:ListTasks"];
    UpdateService, Ecs, ["ecs:UpdateService"];
    DeregisterTargets, Elb, ["elasticloadbalancing:DeregisterTargets"];
    DescribeTargetGroupAttributes, Elb, ["elasticloadbalancing:DescribeTargetGroupAttributes"];
    DescribeTargetHealth, Elb, ["elasticloadbalancing:DescribeTargetHealth"];
    GetTopicAttributes, Sns, ["sns:GetTopicAttributes"];
    Publish, Sns, ["sns:Publish"];
    ChangeMessageVisibilityBatch, Sqs, ["sqs:ChangeMessageVisibility"];
    DeleteMessageBatch, Sqs, ["sqs:DeleteMessage"];
    GetQueueAttributes, Sqs, ["sqs:GetQueueAttributes"];
    GetQueueUrl, Sqs, ["sqs:GetQueueUrl"];
    ReceiveMessage, Sqs, ["sqs:ReceiveMessage"];
    SendMessageBatch, Sqs, ["sqs:SendMessage"];
    SendCommand, Ssm, ["ssm:SendCommand"];
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_permission_belongs_to_the_service_of_its_call() {
        for operation in Operation::ALL {
            for action in operation.iam_actions() {
                let (prefix, name) = action.split_once(':').expect("service and name");
                assert_eq!(prefix, operation.service().iam_prefix(), "{operation}");
                assert!(name.chars().all(|c| c.is_ascii_alphanumeric()), "{action}");
            }
        }
    }
}
